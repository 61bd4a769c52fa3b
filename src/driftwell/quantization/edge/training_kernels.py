"""The functions in C that a training step is made of; gradients are always added to."""

from __future__ import annotations

TYPES_C = """\
/* C (rows, columns) += A B with sums of inner terms, and the tile of it done at once */
typedef struct {
    int rows, columns, inner, tile_rows, tile_columns, tile_inner;
} dw_product;

/* a kernel that moves over an image; of a convolution, over the channels of one group */
typedef struct {
    int channels, height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
    int dilation_h, dilation_w, out_h, out_w;
} dw_window;

typedef struct {
    int groups;
    dw_window window;
    dw_product forward, weights, back;
} dw_layer;
"""

KERNELS_C = """\
static int dw_least(int a, int b)
{
    return a < b ? a : b;
}

/* entry (i, j) of A is a[i a_row + j a_column], so that a transpose is another pair of steps */
static void dw_multiply(const dw_product *p, const float *a, int a_row, int a_column,
                        const float *b, int b_row, int b_column, float *c)
{
    for (int m0 = 0; m0 < p->rows; m0 += p->tile_rows)
        for (int n0 = 0; n0 < p->columns; n0 += p->tile_columns)
            for (int k0 = 0; k0 < p->inner; k0 += p->tile_inner) {
                const int m1 = dw_least(m0 + p->tile_rows, p->rows);
                const int n1 = dw_least(n0 + p->tile_columns, p->columns);
                const int k1 = dw_least(k0 + p->tile_inner, p->inner);
                for (int m = m0; m < m1; m++)
                    for (int n = n0; n < n1; n++) {
                        float sum = 0.0f;
                        for (int k = k0; k < k1; k++)
                            sum += a[m * a_row + k * a_column] * b[k * b_row + n * b_column];
                        c[m * p->columns + n] += sum;
                    }
            }
}

static void dw_zero(float *values, int size)
{
    for (int i = 0; i < size; i++)
        values[i] = 0.0f;
}

static void dw_copy(const float *from, float *to, int size)
{
    for (int i = 0; i < size; i++)
        to[i] = from[i];
}

static void dw_add(const float *from, float *to, int size)
{
    for (int i = 0; i < size; i++)
        to[i] += from[i];
}

/* place in its channel of what a kernel's entry (i, j) sees at (p, q); -1 outside of the image */
static int dw_seen(const dw_window *w, int i, int j, int p, int q)
{
    const int y = p * w->stride_h + i * w->dilation_h - w->pad_h;
    const int x = q * w->stride_w + j * w->dilation_w - w->pad_w;
    return y < 0 || y >= w->height || x < 0 || x >= w->width ? -1 : y * w->width + x;
}

/* im2col: a row for every entry of the kernel, a column for every place */
static void dw_columns(const dw_window *w, const float *image, float *columns)
{
    for (int c = 0; c < w->channels; c++, image += w->height * w->width)
        for (int i = 0; i < w->kernel_h; i++)
            for (int j = 0; j < w->kernel_w; j++)
                for (int p = 0; p < w->out_h; p++)
                    for (int q = 0; q < w->out_w; q++) {
                        const int at = dw_seen(w, i, j, p, q);
                        *columns++ = at < 0 ? 0.0f : image[at];
                    }
}

/* the transpose of dw_columns: every entry of the columns is added to where it came from */
static void dw_scatter(const dw_window *w, const float *columns, float *image)
{
    for (int c = 0; c < w->channels; c++, image += w->height * w->width)
        for (int i = 0; i < w->kernel_h; i++)
            for (int j = 0; j < w->kernel_w; j++)
                for (int p = 0; p < w->out_h; p++)
                    for (int q = 0; q < w->out_w; q++, columns++) {
                        const int at = dw_seen(w, i, j, p, q);
                        if (at >= 0)
                            image[at] += *columns;
                    }
}

/* Y = W col(X) + b, a group after the other; columns is NULL where they are the image */
static void dw_forward(const dw_layer *l, const float *weight, const float *bias, const float *x,
                       float *columns, float *y)
{
    const dw_product *p = &l->forward;
    const int image = l->window.channels * l->window.height * l->window.width;
    for (int g = 0; g < l->groups; g++, x += image) {
        const float *seen = columns ? columns : x;
        if (columns)
            dw_columns(&l->window, x, columns);
        for (int i = 0; i < p->rows * p->columns; i++)
            y[i] = bias ? bias[g * p->rows + i / p->columns] : 0.0f;
        dw_multiply(p, weight, p->inner, 1, seen, p->columns, 1, y);
        weight += p->rows * p->inner;
        y += p->rows * p->columns;
    }
}

/* dW += dY col(X)^T, db += the sum of dY over places; NULL where they are not wanted */
static void dw_learn(const dw_layer *l, const float *x, const float *dy, float *columns,
                     float *dweight, float *dbias)
{
    const dw_product *p = &l->weights;
    const int image = l->window.channels * l->window.height * l->window.width;
    for (int g = 0; g < l->groups; g++, x += image) {
        if (columns)
            dw_columns(&l->window, x, columns);
        dw_multiply(p, dy, p->inner, 1, columns ? columns : x, 1, p->inner, dweight);
        for (int i = 0; dbias && i < p->rows * p->inner; i++)
            dbias[g * p->rows + i / p->inner] += dy[i];
        dweight += p->rows * p->columns;
        dy += p->rows * p->inner;
    }
}

/* dcol(X) = W^T dY, scattered into dX */
static void dw_back(const dw_layer *l, const float *weight, const float *dy, float *columns,
                    float *dx)
{
    const dw_product *p = &l->back;
    const int image = l->window.channels * l->window.height * l->window.width;
    for (int g = 0; g < l->groups; g++, dx += image) {
        if (columns)
            dw_zero(columns, p->rows * p->columns);
        dw_multiply(p, weight, 1, p->rows, dy, p->columns, 1, columns ? columns : dx);
        if (columns)
            dw_scatter(&l->window, columns, dx);
        weight += p->rows * p->inner;
        dy += p->inner * p->columns;
    }
}

/* activations write over their argument, and their slopes over the gradient */
static void dw_relu(float *y, int size)
{
    for (int i = 0; i < size; i++)
        y[i] = y[i] > 0.0f ? y[i] : 0.0f;
}

static void dw_relu_back(const float *y, float *dy, int size)
{
    for (int i = 0; i < size; i++)
        dy[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

static void dw_tanh(float *y, int size)
{
    for (int i = 0; i < size; i++)
        y[i] = tanhf(y[i]);
}

static void dw_tanh_back(const float *y, float *dy, int size)
{
    for (int i = 0; i < size; i++)
        dy[i] *= 1.0f - y[i] * y[i];
}

static void dw_sigmoid(float *y, int size)
{
    for (int i = 0; i < size; i++)
        y[i] = 1.0f / (1.0f + expf(-y[i]));
}

static void dw_sigmoid_back(const float *y, float *dy, int size)
{
    for (int i = 0; i < size; i++)
        dy[i] *= y[i] * (1.0f - y[i]);
}

/* place of the largest entry that a kernel sees; the first of equals */
static int dw_largest(const dw_window *w, const float *image, int p, int q)
{
    int best = -1;
    for (int i = 0; i < w->kernel_h; i++)
        for (int j = 0; j < w->kernel_w; j++) {
            const int at = dw_seen(w, i, j, p, q);
            if (at >= 0 && (best < 0 || image[at] > image[best]))
                best = at;
        }
    return best;
}

static void dw_max_pool(const dw_window *w, const float *x, float *y)
{
    for (int c = 0; c < w->channels; c++, x += w->height * w->width)
        for (int p = 0; p < w->out_h; p++)
            for (int q = 0; q < w->out_w; q++)
                *y++ = x[dw_largest(w, x, p, q)];
}

/* looks for the largest entry again: cheaper than to keep its place */
static void dw_max_pool_back(const dw_window *w, const float *x, const float *dy, float *dx)
{
    for (int c = 0; c < w->channels; c++) {
        for (int p = 0; p < w->out_h; p++)
            for (int q = 0; q < w->out_w; q++)
                dx[dw_largest(w, x, p, q)] += *dy++;
        x += w->height * w->width;
        dx += w->height * w->width;
    }
}

static void dw_mean_pool(const dw_window *w, const float *x, float *y)
{
    for (int c = 0; c < w->channels; c++, x += w->height * w->width)
        for (int p = 0; p < w->out_h; p++)
            for (int q = 0; q < w->out_w; q++) {
                float sum = 0.0f;
                for (int i = 0; i < w->kernel_h; i++)
                    for (int j = 0; j < w->kernel_w; j++)
                        sum += x[dw_seen(w, i, j, p, q)];
                *y++ = sum / (float)(w->kernel_h * w->kernel_w);
            }
}

static void dw_mean_pool_back(const dw_window *w, const float *dy, float *dx)
{
    for (int c = 0; c < w->channels; c++, dx += w->height * w->width)
        for (int p = 0; p < w->out_h; p++)
            for (int q = 0; q < w->out_w; q++, dy++)
                for (int i = 0; i < w->kernel_h; i++)
                    for (int j = 0; j < w->kernel_w; j++)
                        dx[dw_seen(w, i, j, p, q)] += *dy / (float)(w->kernel_h * w->kernel_w);
}

/* mean of (y - t)^2, and its gradient */
static float dw_squares(const float *y, const float *target, float *dy, int size)
{
    float loss = 0.0f;
    for (int i = 0; i < size; i++) {
        const float off = y[i] - target[i];
        loss += off * off / (float)size;
        dy[i] = 2.0f * off / (float)size;
    }
    return loss;
}

/* -log softmax(y)[label], and its gradient softmax(y) - e_label */
static float dw_cross_entropy(const float *y, int label, float *dy, int size)
{
    float top = y[0], sum = 0.0f;
    for (int i = 1; i < size; i++)
        top = y[i] > top ? y[i] : top;
    for (int i = 0; i < size; i++)
        sum += dy[i] = expf(y[i] - top);
    for (int i = 0; i < size; i++)
        dy[i] = dy[i] / sum - (i == label ? 1.0f : 0.0f);
    return logf(sum) + top - y[label];
}

/* w -= rate v with v = momentum v + dw, and dw = 0; plain descent has no v */
static void dw_descend(float *w, float *dw, float *v, int size, float rate, float momentum)
{
    for (int i = 0; i < size; i++) {
        const float step = v ? (v[i] = momentum * v[i] + dw[i]) : dw[i];
        w[i] -= rate * step;
        dw[i] = 0.0f;
    }
}
"""
