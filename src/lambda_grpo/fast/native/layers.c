// What a training pass does between its products, and the gradients of its weights, in float32.

#include "vectors.h"

int team = 1;
void set_threads(int threads) { team = threads; }

int panel_width(void) { return NR; }
int panel_height(void) { return MR; }

enum { TOGETHER = 64 / MR * MR };  // rows, at most, that meet a panel of weights while it is in the cache

// y [rows][n] = x [rows][k] w (+ bias); w: [n][k], or [k][n] if `by_depth`. Returns 0, or 1: no memory.
int linear(int64_t rows, const float *x, int k, const float *w, int n, int by_depth, const float *bias, float *y) {
    int whole = n / NR * NR, rest = n - whole;
    int together = rows < (int64_t)team * TOGETHER ? up((int)(rows + team - 1) / team, MR) : TOGETHER;
    float *packed = malloc(sizeof(float) * ((size_t)up(n, NR) * (k + 1) + (size_t)team * TOGETHER * NR));
    if (!packed) return 1;
    float *last_bias = packed + (size_t)up(n, NR) * k, *behind = last_bias + NR;
    if (bias) memcpy(last_bias, bias + whole, sizeof(float) * rest);
#pragma omp parallel num_threads(team)
    {
#pragma omp for
        for (int c = 0; c < n; c += NR) {
            int width = n - c < NR ? n - c : NR;
            if (by_depth) panels(k, width, w + c, n, packed + (size_t)c * k);
            else panels_of_rows(width, k, w + (size_t)c * k, k, packed + (size_t)c * k);
        }
#pragma omp for
        for (int64_t from = 0; from < rows; from += together) {
            int m = rows - from < together ? (int)(rows - from) : together;
            const float *xi = x + from * k;
            float *yi = y + from * n, *part = behind + (size_t)own_thread() * TOGETHER * NR;
            product(m, xi, k, packed, k, whole, bias, NULL, yi, n);
            if (rest) product(m, xi, k, packed + (size_t)whole * k, k, NR, bias ? last_bias : NULL, NULL, part, NR);
            for (int i = 0; rest && i < m; i++)
                memcpy(yi + (size_t)i * n + whole, part + (size_t)i * NR, sizeof(float) * rest);
        }
    }
    free(packed);
    return 0;
}

enum { DEPTH = 128 };  // rows of x and g that a block of a weight's gradient adds up: its panels stay in the cache

// dw [columns of g, up to MR][ldw] = gᵀ x; g [rows][n], x [rows][k]; ldw = up(k, NR). Returns 0, or 1: no memory.
int weight_gradient(int64_t rows, const float *g, int n, const float *x, int k, float *dw) {
    int panels = (k + NR - 1) / NR;
    size_t ldw = (size_t)panels * NR;
    float *packed = malloc(sizeof(float) * DEPTH * ldw);  // [panel][row][NR]
    if (!packed) return 1;
    if (rows == 0) memset(dw, 0, sizeof(float) * up(n, MR) * ldw);
#pragma omp parallel num_threads(team)
    for (int64_t t = 0; t < rows; t += DEPTH) {
        int depth = rows - t < DEPTH ? (int)(rows - t) : DEPTH;
#pragma omp for
        for (int p = 0; p < panels; p++) {
            int width = k - p * NR < NR ? k - p * NR : NR;
            float *to = packed + (size_t)p * DEPTH * NR;
            for (int i = 0; i < depth; i++, to += NR) {
                memcpy(to, x + (size_t)(t + i) * k + p * NR, sizeof(float) * width);
                if (width < NR) memset(to + width, 0, sizeof(float) * (NR - width));
            }
        }
#pragma omp for
        for (int c = 0; c < n; c += MR) {
            float part[DEPTH * MR];  // [row][MR] of g
            int width = n - c < MR ? n - c : MR;
            for (int i = 0; i < depth; i++)
                for (int j = 0; j < MR; j++) part[i * MR + j] = j < width ? g[(size_t)(t + i) * n + c + j] : 0;
            for (int p = 0; p < panels; p++) {
                float *to = dw + c * ldw + p * NR;
                tile(MR, part, 1, MR, packed + (size_t)p * DEPTH * NR, depth, NULL, t ? to : NULL, to, ldw);
            }
        }
    }
    free(packed);
    return 0;
}

// y = x r w, with r = 1 / sqrt(mean x² + epsilon) kept for the gradient
void norm_forward(int64_t rows, int size, const float *x, const float *w, float epsilon, float *y, float *r) {
#pragma omp parallel for num_threads(team)
    for (int64_t i = 0; i < rows; i++) r[i] = rms_norm_of(size, x + i * size, w, epsilon, y + i * size);
}

// dx = r (g w - x r^2 mean(g w x)); dw [ceil(rows / together)][size]: sums of g x r over `together` rows each, so that
// the whole sum doesn't depend on the threads
void norm_backward(int64_t rows, int size, int together, const float *g, const float *x, const float *w, const float *r,
                   float *dx, float *dw) {
#pragma omp parallel for num_threads(team)
    for (int64_t start = 0; start < rows; start += together) {
        float *own = dw + start / together * size;
        memset(own, 0, sizeof(float) * size);
        for (int64_t i = start; i < rows && i < start + together; i++) {
            const float *gi = g + i * size, *xi = x + i * size;
            float *di = dx + i * size, dot = 0, scale = r[i];
#pragma omp simd reduction(+ : dot)
            for (int j = 0; j < size; j++) dot += gi[j] * w[j] * xi[j];
            dot *= scale * scale / size;
            for (int j = 0; j < size; j++) {
                own[j] += gi[j] * xi[j] * scale;
                di[j] = scale * (gi[j] * w[j] - xi[j] * dot);
            }
        }
    }
}

// y = gate sigmoid(gate) up
void swiglu_forward(int64_t size, const float *gate, const float *up, float *y) {
#pragma omp parallel for num_threads(team)
    for (int64_t i = 0; i < size / W; i++) ((vec *)y)[i] = silu(((const vec *)gate)[i]) * ((const vec *)up)[i];
    for (int64_t i = size / W * W; i < size; i++) y[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

void swiglu_backward(int64_t size, const float *g, const float *gate, const float *up, float *dgate, float *dup) {
#pragma omp parallel for num_threads(team)
    for (int64_t i = 0; i < size / W; i++) {
        vec a = ((const vec *)gate)[i], gi = ((const vec *)g)[i], s = splat(1) / (splat(1) + vexp(-a));
        ((vec *)dup)[i] = gi * a * s;
        ((vec *)dgate)[i] = gi * ((const vec *)up)[i] * s * (splat(1) + a * (splat(1) - s));
    }
    for (int64_t i = size / W * W; i < size; i++) {
        float s = 1 / (1 + expf(-gate[i]));
        dup[i] = g[i] * gate[i] * s;
        dgate[i] = g[i] * up[i] * s * (1 + gate[i] * (1 - s));
    }
}
