"""A predictive controller in C99, but for its sizes and settings: NAME stands for its prefix.

Y and U are n and m of the window, N and M the horizons N and Nu of `NewtonPredictiveControl`. The
statements follow those in Python one by one, so that both plan alike.
"""

from __future__ import annotations

HEAD_C = """\
#include "control.h"

#include <math.h>
#include <stddef.h>

#include "network.h"

"""
CONTROL_C = """
typedef NAME_state state;

static struct {
    float window[Y + U], slope[Y + U];
    float y[N], d[N];  /* output j + 1 samples ahead, and its increment */
    float g[N][M];     /* slope of y[j] along plan[i] */
    float gd[N][M];    /* the same of d[j] */
    float h[M][M];     /* Hessian, then its Cholesky factor */
    float gradient[M]; /* then the step */
    float plan[M], trial[M];
} w;

/* t samples from now; past ones come from the state */
static float input_at(const state *s, const float *plan, int t)
{
    return t < 0 ? s->inputs[-t - 1] : plan[t < M ? t : M - 1];
}

static float output_at(const state *s, int t)
{
    return t ? w.y[t - 1] : s->outputs[0];
}

static float increment_at(const state *s, int t)
{
    return t <= 0 ? s->outputs[1 - t] : w.d[t - 1];
}

/* rows j of gd and g, from the rows before them */
static void chain(int j)
{
    for (int c = 0; c < M; c++) {
        float sum = j ? w.slope[0] * w.g[j - 1][c] : 0.0f;
        for (int i = 1; i < Y && i <= j; i++)
            sum += w.slope[i] * w.gd[j - i][c];
        w.gd[j][c] = sum;
    }
    for (int i = 0; i < U && i <= j; i++)
        w.gd[j][j - i < M ? j - i : M - 1] += w.slope[Y + i];
    for (int c = 0; c < M; c++)
        w.g[j][c] = (j ? w.g[j - 1][c] : 0.0f) + w.gd[j][c];
}

static void roll(const state *s, const float *plan, int with_slopes)
{
    for (int j = 0; j < N; j++) {
        w.window[0] = output_at(s, j);
        for (int i = 1; i < Y; i++)
            w.window[i] = increment_at(s, j - i + 1);
        for (int i = 0; i < U; i++)
            w.window[Y + i] = input_at(s, plan, j - i);
        if (with_slopes) {
            NAME_network_jacobian(w.window, w.d + j, w.slope);
            chain(j);
        } else {
            NAME_network_run_float(w.window, w.d + j);
        }
        w.y[j] = w.window[0] + w.d[j];
    }
}

static float cost(const state *s, const float *plan, const float *reference)
{
    float squares = 0.0f, moves = 0.0f, walls = 0.0f;
    for (int j = 0; j < N; j++)
        squares += (reference[j] - w.y[j]) * (reference[j] - w.y[j]);
    for (int i = 0; i < M; i++) {
        const float move = plan[i] - (i ? plan[i - 1] : s->inputs[0]);
        moves += move * move;
        walls += 1.0f / (plan[i] - LOW) + 1.0f / (HIGH - plan[i]) - 4.0f / (HIGH - LOW);
    }
    return squares + MOVES * moves + BARRIER * walls;
}

/* half of the gradient and of the Hessian: their quotient is the same */
static void derivatives(const state *s, const float *reference)
{
    const float *p = w.plan;
    for (int a = 0; a < M; a++) {
        const float above = 1.0f / (HIGH - p[a]), below = 1.0f / (p[a] - LOW);
        float sum = 0.5f * BARRIER * (above * above - below * below);
        sum += MOVES * (p[a] - (a ? p[a - 1] : s->inputs[0]));
        if (a + 1 < M)
            sum -= MOVES * (p[a + 1] - p[a]);
        for (int j = 0; j < N; j++)
            sum -= w.g[j][a] * (reference[j] - w.y[j]);
        w.gradient[a] = sum;
        for (int b = 0; b <= a; b++) {
            float h = 0.0f;
            for (int j = 0; j < N; j++)
                h += w.g[j][a] * w.g[j][b];
            w.h[a][b] = h;
        }
        w.h[a][a] += (a + 1 < M ? 2.0f : 1.0f) * MOVES;
        w.h[a][a] += BARRIER * (above * above * above + below * below * below);
        if (a)
            w.h[a][a - 1] -= MOVES;
    }
}

/* gradient <- -H^-1 gradient by Cholesky's method; gives d'H d, or 0 if H is not positive */
static float solve(void)
{
    float fall = 0.0f;
    for (int a = 0; a < M; a++) {
        for (int b = 0; b <= a; b++) {
            float sum = w.h[a][b];
            for (int c = 0; c < b; c++)
                sum -= w.h[a][c] * w.h[b][c];
            if (a == b && !(sum > 0.0f))
                return 0.0f;
            w.h[a][b] = a == b ? sqrtf(sum) : sum / w.h[b][b];
        }
        for (int c = 0; c < a; c++)
            w.gradient[a] -= w.h[a][c] * w.gradient[c];
        w.gradient[a] /= w.h[a][a];
        fall += w.gradient[a] * w.gradient[a];
    }
    for (int a = M - 1; a >= 0; a--) {
        for (int c = a + 1; c < M; c++)
            w.gradient[a] -= w.h[c][a] * w.gradient[c];
        w.gradient[a] /= w.h[a][a];
    }
    for (int a = 0; a < M; a++)
        w.gradient[a] = -w.gradient[a];
    return 2.0f * fall;
}

static float shortened(void)
{
    float a = 1.0f;
    for (int i = 0; i < M; i++) {
        const float d = w.gradient[i];
        if (d != 0.0f)
            a = fminf(a, FRACTION * ((d < 0.0f ? LOW : HIGH) - w.plan[i]) / d);
    }
    return a;
}

static void improve(const state *s, const float *reference)
{
    roll(s, w.plan, 1);
    const float before = cost(s, w.plan, reference);
    float squares = 0.0f;
    for (int j = 0; j < N; j++)
        squares += reference[j] * reference[j] + w.y[j] * w.y[j];
    derivatives(s, reference);
    const float fall = solve();
    if (!(fall > 0.0f))
        return;
    float a = shortened();
    for (int i = 0; i < M; i++)
        w.trial[i] = w.plan[i] + a * w.gradient[i];
    roll(s, w.trial, 0);
    const float excess = cost(s, w.trial, reference) - before + a * fall - 0.5f * a * a * fall
                         - SLACK * before - FLOOR * squares;
    a = fminf(a, fall / (fall + 2.0f * fmaxf(excess, 0.0f) / (a * a)));
    for (int i = 0; i < M; i++)
        w.plan[i] += a * w.gradient[i];
}

static float inside(float u)
{
    return fminf(fmaxf(u, LOW + INSET), HIGH - INSET);
}

static void push(float *past, int count, float value)
{
    for (int i = count - 1; i > 0; i--)
        past[i] = past[i - 1];
    past[0] = value;
}

void NAME_start(state *s, float y, float u)
{
    s->outputs[0] = y;
    for (int i = 1; i < Y; i++)
        s->outputs[i] = 0.0f;
    for (size_t i = 0; i < sizeof s->inputs / sizeof *s->inputs; i++)
        s->inputs[i] = u;
    for (int i = 0; i < M; i++)
        s->plan[i] = inside(u);
}

float NAME_step(state *s, float y, const float *reference)
{
    const float moved = y - s->outputs[0];
    if (Y > 1)
        push(s->outputs + 1, Y - 1, moved);
    s->outputs[0] = y;
    for (int i = 0; i < M; i++)
        w.plan[i] = s->plan[i];
    for (int n = 0; n < STEPS; n++)
        improve(s, reference);
    const float u = fminf(fmaxf(w.plan[0], LOW), HIGH);
    push(s->inputs, (int)(sizeof s->inputs / sizeof *s->inputs), u);
    for (int i = 0; i < M; i++)
        s->plan[i] = inside(w.plan[i + 1 < M ? i + 1 : i]);
    return u;
}
"""
