// What the C files share: vectors, products with matrices in panels, softmax, rotary embeddings.

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
static inline int thread_index(void) { return omp_get_thread_num(); }
static inline int thread_count(void) { return omp_get_num_threads(); }
#else
static inline int thread_index(void) { return 0; }
static inline int thread_count(void) { return 1; }
#endif

// A vector holds W floats. A tile of a product, MR rows by NV vectors, stays in registers; a panel is NR columns wide.
#if defined(__AVX512F__)
enum { W = 16, NV = 3, MR = 8 };
#elif defined(__AVX__)
enum { W = 8, NV = 2, MR = 6 };
#else
enum { W = 4, NV = 2, MR = 6 };
#endif
enum { NR = W * NV };
typedef float vec __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(W * 4), aligned(4), may_alias));

extern int lgrpo_threads;  // size of each team of threads

// the least multiple of m that isn't below n
static inline int up(int n, int m) { return (n + m - 1) / m * m; }

static inline vec splat(float x) { return x - (vec){0}; }

static inline float total(vec x) {
    float sum = 0;
    for (int j = 0; j < W; j++) sum += x[j];
    return sum;
}

// RMSNorm of a row: y = x r w with r = 1 / sqrt(mean x² + epsilon), which is returned; y may be x
static inline float rms_norm_row(int size, const float *x, const float *w, float epsilon, float *y) {
    vec sums = splat(0);
    int j = 0;
    for (; j + W <= size; j += W) sums += *(const vec *)(x + j) * *(const vec *)(x + j);
    float squares = total(sums);
    for (; j < size; j++) squares += x[j] * x[j];
    float r = 1 / sqrtf(squares / size + epsilon);
    for (j = 0; j < size; j++) y[j] = w[j] * (x[j] * r);
    return r;
}

// e^x with a relative error of 2e-7; 0 below -87, constant above 88
static inline vec vexp(vec x) {
    ivec tiny = x < splat(-87.0f);
    ivec huge = x > splat(88.0f);
    x = (vec)(((ivec)x & ~(tiny | huge)) | ((ivec)splat(-87.0f) & tiny) | ((ivec)splat(88.0f) & huge));
    vec n = x * splat(1.44269504f);
    ivec k = __builtin_convertvector(n + (vec)(((ivec)n & 0x80000000) | (ivec)splat(0.5f)), ivec);  // nearest integer
    vec m = __builtin_convertvector(k, vec);
    vec r = x - m * splat(0.693145752f) - m * splat(1.42860677e-6f);
    vec p = splat(1.0f / 5040);
    p = p * r + splat(1.0f / 720);
    p = p * r + splat(1.0f / 120);
    p = p * r + splat(1.0f / 24);
    p = p * r + splat(1.0f / 6);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    return (vec)(((ivec)(p * (vec)((k + 127) << 23))) & ~tiny);
}

static inline vec silu(vec x) { return x / (splat(1) + vexp(-x)); }

// y = x w (+ bias) (+ add, laid out as y) for one panel w of weights: `rows` rows of NR columns. Consecutive rows of x
// are `ldx` floats apart, consecutive columns `step`. Meanwhile fetches the floats at `ahead` into the second cache, a
// cache line for each `pace` of them.
static inline __attribute__((always_inline)) void tile(int rows, const float *x, size_t ldx, size_t step,
                                                       const float *w, int depth, const float *bias, const float *add,
                                                       float *y, size_t ldy, const float *ahead, int pace) {
    vec sum[MR][NV];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) {
            sum[i][j] = bias ? *(const vec *)(bias + j * W) : splat(0);
            if (add) sum[i][j] += *(const vec *)(add + i * ldy + j * W);
        }
    for (int k = 0; k < depth; k++, w += NR) {
        for (int j = 0; j < NV; j++, ahead += pace) __builtin_prefetch(ahead, 0, 2);
        for (int i = 0; i < rows; i++) {
            vec v = splat(x[i * ldx + k * step]);
            for (int j = 0; j < NV; j++) sum[i][j] += v * *(const vec *)(w + j * W);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) *(vec *)(y + i * ldy + j * W) = sum[i][j];
}

// `tile` with its number of rows, at most MR, known to the compiler
static inline void strip(int rows, const float *x, size_t ldx, size_t step, const float *w, int depth,
                         const float *bias, const float *add, float *y, size_t ldy, const float *ahead, int pace) {
    switch (rows) {
#define ROWS(m) \
    case m: tile(m <= MR ? m : MR, x, ldx, step, w, depth, bias, add, y, ldy, ahead, pace); break;
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8)
#undef ROWS
    }
}

// y [rows][ldy] = x [rows][ldx] w (+ bias) (+ add, laid out as y) with w [depth][columns] in panels; columns: a
// multiple of NR
static inline void product(int rows, const float *x, int ldx, const float *w, int depth, int columns, const float *bias,
                           const float *add, float *y, int ldy) {
    int strips = rows > MR ? (rows + MR - 1) / MR : 1, pace = (W + strips - 1) / strips;
    for (int c = 0; c < columns; c += NR, w += (size_t)depth * NR) {
        const float *ahead = w + (size_t)depth * NR;
        for (int i = 0; i < rows; i += MR, ahead += (size_t)depth * NV * pace)
            strip(rows - i < MR ? rows - i : MR, x + (size_t)i * ldx, ldx, 1, w, depth, bias ? bias + c : NULL,
                  add ? add + (size_t)i * ldy + c : NULL, y + (size_t)i * ldy + c, ldy, ahead, pace);
    }
}

// x [n][ld], of which `size` columns count, as panels of columns, [size / NR][n][NR], padded with zeros
static inline void to_panels(int n, int size, const float *x, size_t ld, float *to) {
    for (int c = 0; c < size; c += NR)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < NR; j++) *to++ = c + j < size ? x[i * ld + c + j] : 0;
}

// the same of x's transpose, [n / NR][size][NR]
static inline void to_panels_transposed(int n, int size, const float *x, size_t ld, float *to) {
    for (int c = 0; c < n; c += NR)
        for (int j = 0; j < size; j++)
            for (int i = 0; i < NR; i++) *to++ = c + i < n ? x[(c + i) * ld + j] : 0;
}

// Rotary embedding (arXiv 2104.09864) of a head: to = x rotated, times a factor
static inline void rotate(float *to, const float *x, int size, const float *cos, const float *sin, float factor) {
    for (int j = 0, half = size / 2; j < half; j++) {
        float a = x[j], b = x[j + half];
        to[j] = factor * (a * cos[j] - b * sin[j]);
        to[j + half] = factor * (b * cos[j + half] + a * sin[j + half]);
    }
}

// The transpose of `rotate`, for gradients.
static inline void rotate_back(float *to, const float *x, int size, const float *cos, const float *sin, float factor) {
    for (int j = 0, half = size / 2; j < half; j++) {
        to[j] = factor * (x[j] * cos[j] + x[j + half] * sin[j + half]);
        to[j + half] = factor * (x[j + half] * cos[j + half] - x[j] * sin[j]);
    }
}

// Softmax of the first n elements of s in place, zeros from there to `width`, a multiple of W. Returns the log-sum-exp.
static inline float softmax(float *s, int n, int width) {
    for (int c = n; c < width; c++) s[c] = -INFINITY;
    vec tops = *(vec *)s, sums = splat(0);
    for (int c = W; c < width; c += W) {
        vec x = *(vec *)(s + c);
        ivec above = x > tops;
        tops = (vec)(((ivec)x & above) | ((ivec)tops & ~above));
    }
    float top = tops[0];
    for (int j = 1; j < W; j++) top = tops[j] > top ? tops[j] : top;
    for (int c = 0; c < width; c += W) {
        vec e = vexp(*(vec *)(s + c) - splat(top));
        *(vec *)(s + c) = e;
        sums += e;
    }
    float sum = total(sums), scale = 1 / sum;
    for (int c = 0; c < width; c += W) *(vec *)(s + c) *= splat(scale);
    return top + logf(sum);
}
