// What the compiled files share: vectors, products of matrices in panels, softmax, rotation.

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// W floats make a vector; a tile of the product, MR rows by NV vectors, stays in registers.
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

extern int team;  // threads that work together

static inline int up(int n, int m) { return (n + m - 1) / m * m; }

static inline vec splat(float x) { return x - (vec){0}; }

static inline float total(vec x) {
    float sum = 0;
    for (int j = 0; j < W; j++) sum += x[j];
    return sum;
}

// e^x to 2e-7 of its value; 0 below -87, and above 88 what it is there
static inline vec vexp(vec x) {
    ivec tiny = x < splat(-87.0f), huge = x > splat(88.0f);
    x = (vec)(((ivec)x & ~(tiny | huge)) | ((ivec)splat(-87.0f) & tiny) | ((ivec)splat(88.0f) & huge));
    vec n = x * splat(1.44269504f);
    ivec k = __builtin_convertvector(n + (vec)(((ivec)n & 0x80000000) | (ivec)splat(0.5f)), ivec);  // to the nearest
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

// rows x NR of y = x w (+ bias) (+ add, laid out as y), w one panel; x is read in steps of `ldx` and, in depth, `step`
static inline __attribute__((always_inline)) void tile(int rows, const float *x, size_t ldx, size_t step,
                                                       const float *w, int depth, const float *bias, const float *add,
                                                       float *y, size_t ldy) {
    vec sum[MR][NV];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) {
            sum[i][j] = bias ? *(const vec *)(bias + j * W) : splat(0);
            if (add) sum[i][j] += *(const vec *)(add + i * ldy + j * W);
        }
    for (int k = 0; k < depth; k++, w += NR)
        for (int i = 0; i < rows; i++) {
            vec v = splat(x[i * ldx + k * step]);
            for (int j = 0; j < NV; j++) sum[i][j] += v * *(const vec *)(w + j * W);
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) *(vec *)(y + i * ldy + j * W) = sum[i][j];
}

// y [rows][ldy] = x [rows][depth] w (+ bias) (+ add, laid out as y); columns: a multiple of NR
static inline void product(int rows, const float *x, int ldx, const float *w, int depth, int columns, const float *bias,
                    const float *add, float *y, int ldy) {
    for (int c = 0; c < columns; c += NR, w += (size_t)depth * NR) {
        const float *b = bias ? bias + c : NULL, *xi = x, *a = add ? add + c : NULL;
        float *yi = y + c;
        for (int i = 0, m; i < rows; i += m, xi += (size_t)m * ldx, yi += (size_t)m * ldy) {
            if ((m = rows - i) >= MR) tile(m = MR, xi, ldx, 1, w, depth, b, a, yi, ldy);
            else if (m >= 2) tile(m = 2, xi, ldx, 1, w, depth, b, a, yi, ldy);
            else tile(1, xi, ldx, 1, w, depth, b, a, yi, ldy);
            if (a) a += (size_t)m * ldy;
        }
    }
}

// to = x rotated by its position (arXiv 2104.09864), times a factor
static inline void rotate(float *to, const float *x, int size, const float *cos, const float *sin, float factor) {
    for (int j = 0, half = size / 2; j < half; j++) {
        float a = x[j], b = x[j + half];
        to[j] = factor * (a * cos[j] - b * sin[j]);
        to[j + half] = factor * (b * cos[j + half] + a * sin[j + half]);
    }
}

// The transpose of `rotate`: a gradient's way back.
static inline void rotate_back(float *to, const float *x, int size, const float *cos, const float *sin, float factor) {
    for (int j = 0, half = size / 2; j < half; j++) {
        to[j] = factor * (x[j] * cos[j] + x[j + half] * sin[j + half]);
        to[j + half] = factor * (x[j + half] * cos[j + half] - x[j] * sin[j]);
    }
}

// softmax of the first n of s in place, zeros up to `width`, a multiple of W; returns the log of the sum of exponentials
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
