/* The two loops over columns, for numbers of type REAL.
 *
 * GPTQ takes LANES rows of W side by side, so that its products are vector code; descent takes a
 * row at a time, because most of its steps change nothing.
 */
typedef struct {
    const REAL *levels; /* ascending */
    const REAL *edges;  /* midpoints between neighbours */
    int64_t count;
    int64_t uniform; /* levels are 0, 1, ..., count - 1 */
} LEVELS;

static inline int CODE(const LEVELS *grid, REAL u) {
    const REAL top = (REAL)(grid->count - 1);
    if (grid->uniform) return (int)RINT(u < 0 ? 0 : u > top ? top : u);
    int code = 0;
    for (int64_t k = 0; k + 1 < grid->count; k++) code += u > grid->edges[k];
    return code;
}

/* t_i = w_i + sum_{j<i} L_ij (w_j - q_j);  q_i = nearest(t_i);  loss = sum_i d_i (t_i - q_i)^2 */
static void GPTQ_LANES(const LEVELS *grid, int64_t lanes, int64_t columns, int64_t groups,
                       const REAL *w, const REAL *feedback, const REAL *weight,
                       const int64_t *order, const int64_t *group, const REAL *scale,
                       const REAL *zero, REAL *errors, uint8_t *codes, double *loss) {
    double total[LANES] = {0};
    for (int64_t i = 0; i < columns; i++) {
        const int64_t column = order[i], g = group[column];
        const REAL *row = feedback + i * columns;
        REAL a[LANES] = {0}, b[LANES] = {0};
        int64_t j = 0;
        for (; j + 1 < i; j += 2) {
            const REAL *e = errors + j * LANES, *f = e + LANES;
            const REAL u = row[j], v = row[j + 1];
#pragma omp simd
            for (int l = 0; l < LANES; l++) {
                a[l] += u * e[l];
                b[l] += v * f[l];
            }
        }
        for (; j < i; j++)
            for (int l = 0; l < LANES; l++) a[l] += row[j] * errors[j * LANES + l];
        REAL *here = errors + i * LANES;
        for (int64_t l = 0; l < lanes; l++) {
            const REAL s = scale[l * groups + g], z = zero[l * groups + g];
            const REAL wanted = w[l * columns + column], t = wanted + (a[l] + b[l]);
            const int code = CODE(grid, (s != 0 ? t / s : 0) + z);
            const REAL q = s * (grid->levels[code] - z);
            codes[l * columns + column] = (uint8_t)code;
            here[l] = wanted - q;
            total[l] += (double)weight[i] * (double)(t - q) * (double)(t - q);
        }
        for (int64_t l = lanes; l < LANES; l++) here[l] = 0;
    }
    for (int64_t l = 0; l < lanes; l++) loss[l] = total[l];
}

int GPTQ(const LEVELS *grid, int64_t rows, int64_t columns, int64_t groups, const REAL *w,
         const REAL *feedback, const REAL *weight, const int64_t *order, const int64_t *group,
         const REAL *scale, const REAL *zero, uint8_t *codes, double *loss, int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        REAL *errors = malloc((size_t)columns * LANES * sizeof(REAL));
        if (errors == NULL) failed = 1;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r += LANES) {
            const int64_t lanes = rows - r < LANES ? rows - r : LANES;
            if (errors == NULL) continue;
            GPTQ_LANES(grid, lanes, columns, groups, w + r * columns, feedback, weight, order,
                       group, scale + r * groups, zero + r * groups, errors, codes + r * columns,
                       loss + r);
        }
        free(errors);
    }
    return failed;
}

/* One row of W, its codes q = s (l - z), and r = (w - q) G, kept up to date by every step. */
typedef struct {
    int64_t columns, groups;
    const REAL *gram, *inverse; /* G, and 1 / G_ii or 0 for a dead input */
    const int64_t *near;        /* (columns, partners): the columns most like each one */
    int64_t partners;
    const int64_t *group;
    const REAL *ones; /* (groups, columns): sum over the group's columns j of G_ji */
    REAL *values, *residual, *scale, *zero;
    REAL *moved; /* (groups, columns): sum over the group's columns j of l_j G_ji */
    uint8_t *codes;
    double gain; /* how much E = (w - q) G (w - q)^T has fallen */
} DESCENT;

/* q_i takes another code: r and the moved levels follow */
static void CHANGE(const LEVELS *grid, DESCENT *it, int64_t i, int code, REAL next, int fit) {
    const int64_t columns = it->columns;
    const REAL *row = it->gram + i * columns, change = it->values[i] - next;
    REAL *residual = it->residual;
#pragma omp simd
    for (int64_t j = 0; j < columns; j++) residual[j] += change * row[j];
    if (fit) {
        const REAL lift = grid->levels[code] - grid->levels[it->codes[i]];
        REAL *moved = it->moved + it->group[i] * columns;
#pragma omp simd
        for (int64_t j = 0; j < columns; j++) moved[j] += lift * row[j];
    }
    it->values[i] = next;
    it->codes[i] = (uint8_t)code;
}

/* the exact minimum of E over one column's code, for every column in the given order */
static void SWEEP(const LEVELS *grid, DESCENT *it, const int64_t *order, int forced, int fit) {
    for (int64_t k = 0; k < it->columns; k++) {
        const int64_t i = order[k], g = it->group[i];
        const REAL s = it->scale[g], z = it->zero[g], now = it->values[i];
        const REAL t = now + it->residual[i] * it->inverse[i];
        const int code = CODE(grid, (s != 0 ? t / s : 0) + z);
        const REAL next = s * (grid->levels[code] - z);
        const double before = (double)(t - now) * (double)(t - now);
        const double after = (double)(t - next) * (double)(t - next);
        /* a step must gain more than rounding may lose, or two codes could take turns for ever */
        if (!forced && !(after < MARGIN * before && it->inverse[i] > 0)) continue;
        if (it->inverse[i] > 0) it->gain += (before - after) / (double)it->inverse[i];
        CHANGE(grid, it, i, code, next, fit);
    }
}

/* steps of column i to the next code above and below, and what each costs of itself, t^2 G_ii */
static void NEIGHBOURS(const LEVELS *grid, const DESCENT *it, int64_t i, REAL *step, REAL *cost) {
    const REAL s = it->scale[it->group[i]], own = it->gram[i * it->columns + i];
    for (int way = 0; way < 2; way++) {
        const int64_t at = way * it->columns + i, code = it->codes[i] + (way ? -1 : 1);
        const int there = code >= 0 && code < grid->count;
        step[at] = there ? s * (grid->levels[code] - grid->levels[it->codes[i]]) : 0;
        cost[at] = there ? step[at] * step[at] * own : INFINITY;
    }
}

/* for every column, the best step by one code of it and of a column like it together */
static void PAIRS(const LEVELS *grid, DESCENT *it, REAL *step, REAL *cost, int fit) {
    const int64_t columns = it->columns;
    const REAL *residual = it->residual;
    for (int64_t i = 0; i < columns; i++) NEIGHBOURS(grid, it, i, step, cost);
    for (int64_t k = 0; k < 2 * columns; k++) {
        const int64_t i = k / 2, mine = (k % 2) * columns + i;
        const int64_t *near = it->near + i * it->partners;
        const REAL t = step[mine], own = cost[mine], *row = it->gram + i * columns;
        if (t == 0 || !(it->inverse[i] > 0)) continue;
        REAL best = -INFINITY;
        int64_t other = i;
        for (int64_t n = 0; n < 2 * it->partners; n++) {
            const int64_t j = near[n / 2], at = (n % 2) * columns + j;
            const REAL gain = 2 * step[at] * (residual[j] - t * row[j]) - cost[at];
            if (gain > best) best = gain, other = at;
        }
        const REAL alone = 2 * t * residual[i] - own;
        if (alone + best > LEAST * own) {
            const int64_t j = other % columns, way = other / columns;
            const REAL u = step[other];
            it->gain += (double)(alone + best);
            CHANGE(grid, it, i, it->codes[i] + (k % 2 ? -1 : 1), it->values[i] + t, fit);
            CHANGE(grid, it, j, it->codes[j] + (way ? -1 : 1), it->values[j] + u, fit);
            NEIGHBOURS(grid, it, j, step, cost);
        }
        NEIGHBOURS(grid, it, i, step, cost);
    }
}

/* the exact minimum of E over the scale of one group, and over its zero: kept, whole or free */
static void FIT(const LEVELS *grid, DESCENT *it, int64_t g, int zeros) {
    const int64_t columns = it->columns;
    REAL *residual = it->residual, *moved = it->moved + g * columns;
    const REAL *ones = it->ones + g * columns;
    double ll = 0, lo = 0, oo = 0, rl = 0, ro = 0;
    for (int64_t i = 0; i < columns; i++) {
        if (it->group[i] != g) continue;
        const double l = (double)grid->levels[it->codes[i]];
        ll += l * (double)moved[i];
        lo += (double)moved[i];
        oo += (double)ones[i];
        rl += l * (double)residual[i];
        ro += (double)residual[i];
    }
    const double s = (double)it->scale[g], z = (double)it->zero[g];
    /* what l and 1 see of the target, that is with this group's own q taken out of r */
    const double tl = rl + s * (ll - z * lo), to = ro + s * (lo - z * oo);
    double tries[3] = {z, z, z};
    const double det = ll * oo - lo * lo, free = (tl * lo - to * ll) / (tl * oo - to * lo);
    if (zeros > KEPT && det > 1e-6 * ll * oo && isfinite(free)) {
        tries[1] = zeros == WHOLE ? floor(free) : free;
        tries[2] = zeros == WHOLE ? ceil(free) : free;
    }
    double best = 0, best_s = s, best_z = z;
    for (int k = 0; k < 3; k++) {
        const double zk = tries[k], cc = ll - 2 * zk * lo + zk * zk * oo;
        const double sk = (tl - zk * to) / cc;
        if (zeros == WHOLE && k > 0 && !(zk >= 0 && zk <= (double)(grid->count - 1))) continue;
        if (!(cc > 0) || !(sk * s > 0) || !isfinite(sk)) continue;
        const double ds = sk - s, db = sk * zk - s * z;
        const double gain =
            2 * (ds * rl - db * ro) - (ds * ds * ll - 2 * ds * db * lo + db * db * oo);
        if (gain > best) best = gain, best_s = sk, best_z = zk;
    }
    if (!(best > 0)) return;
    const REAL scale = (REAL)best_s, zero = (REAL)best_z;
    const REAL fall = (REAL)((double)scale - s), lift = (REAL)((double)scale * (double)zero - s * z);
#pragma omp simd
    for (int64_t j = 0; j < columns; j++) residual[j] += lift * ones[j] - fall * moved[j];
    for (int64_t i = 0; i < columns; i++)
        if (it->group[i] == g) it->values[i] = scale * (grid->levels[it->codes[i]] - zero);
    it->scale[g] = scale;
    it->zero[g] = zero;
    it->gain += best;
}

int DESCEND(const LEVELS *grid, int64_t rows, int64_t columns, int64_t groups, const REAL *gram,
            const REAL *inverse, const int64_t *near, int64_t partners, const int64_t *order,
            int64_t order_stride, const int64_t *group,
            const REAL *ones, REAL *values, REAL *residual, REAL *moved, uint8_t *codes,
            REAL *scale, REAL *zero, double *gain, int64_t sweeps, int forced, int fit,
            int zeros, int pairs, int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        REAL *scratch = malloc((size_t)columns * 4 * sizeof(REAL));
        if (scratch == NULL) failed = 1;
#pragma omp for schedule(dynamic, 4)
        for (int64_t r = 0; r < rows; r++) {
            DESCENT it = {columns, groups, gram, inverse, near, partners, group, ones,
                          values + r * columns, residual + r * columns, scale + r * groups, zero + r * groups,
                          fit ? moved + r * groups * columns : NULL, codes + r * columns, 0};
            if (scratch == NULL) continue;
            for (int64_t turn = 0; turn < sweeps + pairs; turn++) {
                if (fit)
                    for (int64_t g = 0; g < groups; g++) FIT(grid, &it, g, zeros);
                if (turn >= sweeps) PAIRS(grid, &it, scratch, scratch + 2 * columns, fit);
                SWEEP(grid, &it, order + r * order_stride, forced && turn == 0, fit);
            }
            if (fit)
                for (int64_t g = 0; g < groups; g++) FIT(grid, &it, g, zeros);
            gain[r] = it.gain;
        }
        free(scratch);
    }
    return failed;
}
