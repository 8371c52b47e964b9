// Layers of a training pass in float32: linear layers with the gradients of their weights, RMSNorm, SwiGLU.

#include "vectors.h"

int lgrpo_threads = 1;
void lgrpo_set_threads(int threads) { lgrpo_threads = threads; }

int lgrpo_panel_width(void) { return NR; }
int lgrpo_panel_height(void) { return MR; }

enum { BLOCK = 64 / MR * MR };  // greatest number of rows that use a panel of weights while it is in the cache

// y [rows][n] = x [rows][k] wᵀ (+ bias) with w [n][k], or x w with w [k][n] if `is_transposed`. Returns 0, or 1 if
// memory ran out.
int lgrpo_linear(int64_t rows, const float *x, int k, const float *w, int n, int is_transposed, const float *bias,
                 float *y) {
    int whole = n / NR * NR, rest = n - whole;
    int block = rows < (int64_t)lgrpo_threads * BLOCK ? up((int)(rows + lgrpo_threads - 1) / lgrpo_threads, MR) : BLOCK;
    float *w_panels = malloc(sizeof(float) * ((size_t)up(n, NR) * (k + 1) + (size_t)lgrpo_threads * BLOCK * NR));
    if (!w_panels) return 1;
    float *last_bias = w_panels + (size_t)up(n, NR) * k, *last_columns = last_bias + NR;
    if (bias) memcpy(last_bias, bias + whole, sizeof(float) * rest);
#pragma omp parallel num_threads(lgrpo_threads)
    {
#pragma omp for
        for (int c = 0; c < n; c += NR) {
            int width = n - c < NR ? n - c : NR;
            if (is_transposed) to_panels(k, width, w + c, n, w_panels + (size_t)c * k);
            else to_panels_transposed(width, k, w + (size_t)c * k, k, w_panels + (size_t)c * k);
        }
#pragma omp for
        for (int64_t from = 0; from < rows; from += block) {
            int m = rows - from < block ? (int)(rows - from) : block;
            const float *xi = x + from * k;
            float *yi = y + from * n, *part = last_columns + (size_t)thread_index() * BLOCK * NR;
            product(m, xi, k, w_panels, k, whole, bias, NULL, yi, n);
            if (rest) product(m, xi, k, w_panels + (size_t)whole * k, k, NR, bias ? last_bias : NULL, NULL, part, NR);
            for (int i = 0; rest && i < m; i++)
                memcpy(yi + (size_t)i * n + whole, part + (size_t)i * NR, sizeof(float) * rest);
        }
    }
    free(w_panels);
    return 0;
}

enum { DEPTH = 128 };  // rows of x and g that a block of a weight's gradient sums, so that its panels stay in the cache

// dw [up(n, MR)][up(k, NR)] = gᵀ x; g [rows][n], x [rows][k]. Returns 0, or 1 if memory ran out.
int lgrpo_weight_gradient(int64_t rows, const float *g, int n, const float *x, int k, float *dw) {
    int count = (k + NR - 1) / NR;
    size_t ldw = (size_t)count * NR;
    float *x_panels = malloc(sizeof(float) * DEPTH * ldw);  // [panel][row][NR]
    if (!x_panels) return 1;
    if (rows == 0) memset(dw, 0, sizeof(float) * up(n, MR) * ldw);
#pragma omp parallel num_threads(lgrpo_threads)
    for (int64_t t = 0; t < rows; t += DEPTH) {
        int depth = rows - t < DEPTH ? (int)(rows - t) : DEPTH;
#pragma omp for
        for (int p = 0; p < count; p++) {
            int width = k - p * NR < NR ? k - p * NR : NR;
            float *to = x_panels + (size_t)p * DEPTH * NR;
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
            for (int p = 0; p < count; p++) {
                float *to = dw + c * ldw + p * NR;
                const float *panel = x_panels + (size_t)p * DEPTH * NR;
                tile(MR, part, 1, MR, panel, depth, NULL, t ? to : NULL, to, ldw, panel + (size_t)DEPTH * NR, W);
            }
        }
    }
    free(x_panels);
    return 0;
}

// y = x r w; r = 1 / sqrt(mean x² + epsilon) is kept for the gradient
void lgrpo_rms_norm_forward(int64_t rows, int size, const float *x, const float *w, float epsilon, float *y, float *r) {
#pragma omp parallel for num_threads(lgrpo_threads)
    for (int64_t i = 0; i < rows; i++) r[i] = rms_norm_row(size, x + i * size, w, epsilon, y + i * size);
}

// dx = r (g w - x r² mean(g w x)); dw [ceil(rows / block)][size]: sums of g x r over `block` rows each, so that the
// total doesn't depend on the number of threads
void lgrpo_rms_norm_backward(int64_t rows, int size, int block, const float *g, const float *x, const float *w,
                             const float *r, float *dx, float *dw) {
#pragma omp parallel for num_threads(lgrpo_threads)
    for (int64_t start = 0; start < rows; start += block) {
        float *sums = dw + start / block * size;
        memset(sums, 0, sizeof(float) * size);
        for (int64_t i = start; i < rows && i < start + block; i++) {
            const float *gi = g + i * size, *xi = x + i * size;
            float *di = dx + i * size, dot = 0, scale = r[i];
#pragma omp simd reduction(+ : dot)
            for (int j = 0; j < size; j++) dot += gi[j] * w[j] * xi[j];
            dot *= scale * scale / size;
            for (int j = 0; j < size; j++) {
                sums[j] += gi[j] * xi[j] * scale;
                di[j] = scale * (gi[j] * w[j] - xi[j] * dot);
            }
        }
    }
}

// y = gate sigmoid(gate) up
void lgrpo_swiglu_forward(int64_t size, const float *gate, const float *up, float *y) {
#pragma omp parallel for num_threads(lgrpo_threads)
    for (int64_t i = 0; i < size / W; i++) ((vec *)y)[i] = silu(((const vec *)gate)[i]) * ((const vec *)up)[i];
    for (int64_t i = size / W * W; i < size; i++) y[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

// The gradient of lgrpo_swiglu_forward, and its output again if y isn't NULL; y may be g.
void lgrpo_swiglu_backward(int64_t size, const float *g, const float *gate, const float *up, float *dgate, float *dup,
                           float *y) {
#pragma omp parallel for num_threads(lgrpo_threads)
    for (int64_t i = 0; i < size / W; i++) {
        vec a = ((const vec *)gate)[i], b = ((const vec *)up)[i], gi = ((const vec *)g)[i];
        vec s = splat(1) / (splat(1) + vexp(-a));
        ((vec *)dup)[i] = gi * a * s;
        ((vec *)dgate)[i] = gi * b * s * (splat(1) + a * (splat(1) - s));
        if (y) ((vec *)y)[i] = a * s * b;
    }
    for (int64_t i = size / W * W; i < size; i++) {
        float s = 1 / (1 + expf(-gate[i])), gi = g[i];
        dup[i] = gi * gate[i] * s;
        dgate[i] = gi * up[i] * s * (1 + gate[i] * (1 - s));
        if (y) y[i] = gate[i] * s * up[i];
    }
}
