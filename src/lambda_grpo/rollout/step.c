// One decoding step of a Llama-like model in float32: a new token's embedding for each row in, logits out.
//
// Rows are independent, so threads take a range of them through all layers without waiting for each other. Matrices
// come in panels of NR columns, [columns / NR][depth][NR], so that one kernel multiplies by weights and by the prompts'
// keys and values alike: the rows of a group read their prompt's together.

#include <math.h>
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

typedef struct {  // of one layer; matrices in panels, biases as long as their panels or NULL
    const float *norm, *qkv, *qkv_bias, *q_norm, *k_norm, *out, *out_bias, *mlp_norm, *gate_up, *gate_up_bias, *down,
        *down_bias;
} Layer;

typedef struct {
    int layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary;
    int prompts, prompt_width, slots, max_new;  // prompt_width and max_new: multiples of NR and W
    float epsilon, scale;
    const Layer *layer;
    const float *final_norm, *head, *cos, *sin;     // cos, sin: [position][head_dim]
    const float *prompt_keys, *prompt_values;       // [layer][prompt][kv_head] of panels: [head_dim][prompt_width] and
                                                    // [prompt_width][head_dim]
    float *keys, *values;                           // [layer][slot][kv_head], [head_dim][max_new], [max_new][head_dim]
} Model;

int panel_width(void) { return NR; }
int vector_width(void) { return W; }

static inline int up(int n, int m) { return (n + m - 1) / m * m; }

static inline vec splat(float x) { return x - (vec){0}; }

static inline float total(vec x) {
    float sum = 0;
    for (int j = 0; j < W; j++) sum += x[j];
    return sum;
}

// e^x to 2e-7 of its value; 0 below -87
static inline vec vexp(vec x) {
    ivec tiny = x < splat(-87.0f);
    x = (vec)(((ivec)x & ~tiny) | ((ivec)splat(-87.0f) & tiny));
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

// rows x NR of y = x w (+ bias) (+ add), w one panel
static inline __attribute__((always_inline)) void tile(int rows, const float *x, int ldx, const float *w, int depth,
                                                       const float *bias, const float *add, float *y, int ldy) {
    vec sum[MR][NV];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) {
            sum[i][j] = bias ? *(const vec *)(bias + j * W) : splat(0);
            if (add) sum[i][j] += *(const vec *)(add + (size_t)i * ldy + j * W);
        }
    for (int k = 0; k < depth; k++, w += NR)
        for (int i = 0; i < rows; i++) {
            vec v = splat(x[(size_t)i * ldx + k]);
            for (int j = 0; j < NV; j++) sum[i][j] += v * *(const vec *)(w + j * W);
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) *(vec *)(y + (size_t)i * ldy + j * W) = sum[i][j];
}

// y [rows][ldy] = x [rows][depth] w (+ bias) (+ add, laid out as y); columns: a multiple of NR
static void product(int rows, const float *x, int ldx, const float *w, int depth, int columns, const float *bias,
                    const float *add, float *y, int ldy) {
    for (int c = 0; c < columns; c += NR, w += (size_t)depth * NR) {
        const float *b = bias ? bias + c : NULL;
        int i = 0;
        for (; i + MR <= rows; i += MR)
            tile(MR, x + (size_t)i * ldx, ldx, w, depth, b, add ? add + (size_t)i * ldy + c : NULL,
                 y + (size_t)i * ldy + c, ldy);
        for (; i + 2 <= rows; i += 2)
            tile(2, x + (size_t)i * ldx, ldx, w, depth, b, add ? add + (size_t)i * ldy + c : NULL,
                 y + (size_t)i * ldy + c, ldy);
        for (; i < rows; i++)
            tile(1, x + (size_t)i * ldx, ldx, w, depth, b, add ? add + (size_t)i * ldy + c : NULL,
                 y + (size_t)i * ldy + c, ldy);
    }
}

static void rms_norm(int rows, int size, const float *x, int ldx, const float *weight, float epsilon, float *y,
                     int ldy) {
    for (int i = 0; i < rows; i++, x += ldx, y += ldy) {
        vec sums = splat(0);
        int j = 0;
        for (; j + W <= size; j += W) sums += *(const vec *)(x + j) * *(const vec *)(x + j);
        float squares = total(sums);
        for (; j < size; j++) squares += x[j] * x[j];
        float scale = 1 / sqrtf(squares / size + epsilon);
        for (int j = 0; j < size; j++) y[j] = x[j] * scale * weight[j];
    }
}

static void rotate(float *x, int size, const float *cos, const float *sin) {
    for (int j = 0, half = size / 2; j < half; j++) {
        float a = x[j], b = x[j + half];
        x[j] = a * cos[j] - b * sin[j];
        x[j + half] = b * cos[j + half] + a * sin[j + half];
    }
}

// softmax of the first n of s in place, zeros up to `width`, a multiple of W
static void softmax(float *s, int n, int width) {
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
    float scale = 1 / total(sums);
    for (int c = 0; c < width; c += W) *(vec *)(s + c) *= splat(scale);
}

// Attention of a run of rows that share a prompt: `q` [rows][ldq] (rotated and scaled), out [rows][heads * head_dim].
static void attend(const Model *m, int layer, int rows, const float *q, int ldq, const long *slot, long prompt,
                   int length, int t, float *s, float *out) {
    int hd = m->head_dim, kv = m->kv_heads, shared = m->heads / kv, P = m->prompt_width, C = m->max_new;
    int used = up(length, NR), ld = P + C, ldo = m->heads * hd, wide = up(hd, NR);
    float *part = s + (size_t)rows * ld;  // [rows][wide]
    for (int a = 0; a < m->heads; a++) {
        size_t head = ((size_t)layer * m->prompts + prompt) * kv + a / shared;
        product(rows, q + a * hd, ldq, m->prompt_keys + head * hd * P, hd, used, NULL, NULL, s, ld);
        for (int i = 0; i < rows; i++) {
            size_t own = (((size_t)layer * m->slots + slot[i]) * kv + a / shared) * hd * C;
            const float *query = q + (size_t)i * ldq + a * hd;
            float *score = s + (size_t)i * ld;
            for (int c = 0; c <= t; c += W) {
                vec sum = splat(0);
                for (int j = 0; j < hd; j++) sum += splat(query[j]) * *(const vec *)(m->keys + own + (size_t)j * C + c);
                *(vec *)(score + length + c) = sum;  // behind the prompt's own scores
            }
            softmax(score, length + t + 1, up(length + t + 1, W));
        }
        // the probabilities' first `length` times the prompt's values
        product(rows, s, ld, m->prompt_values + head * P * wide, length, wide, NULL, NULL, part, wide);
        for (int i = 0; i < rows; i++) {
            size_t own = (((size_t)layer * m->slots + slot[i]) * kv + a / shared) * hd * C;
            const float *p = s + (size_t)i * ld + length;
            float *o = out + (size_t)i * ldo + a * hd;
            for (int j = 0; j < hd; j += W) {
                vec sum = *(vec *)(part + (size_t)i * wide + j);
                for (int c = 0; c <= t; c++) sum += splat(p[c]) * *(const vec *)(m->values + own + (size_t)c * hd + j);
                *(vec *)(o + j) = sum;
            }
        }
    }
}

// Rows `from` .. `to`: token t of each. x [row][hidden] is overwritten; slot, prompt, length: of each row; rows of one
// prompt stand together. logits [row][up(vocabulary, NR)]. Returns 0, or 1 where memory is short.
int step(const Model *m, int from, int to, float *x, const long *slot, const long *prompt, const long *lengths, int t,
         float *logits) {
    int n = to - from, H = m->hidden, hd = m->head_dim, C = m->max_new, I = up(m->intermediate, NR);
    int queries = m->heads * hd, keys = m->kv_heads * hd, Q = up(queries + 2 * keys, NR), Hn = up(H, NR);
    float *h = malloc(sizeof(float) * ((size_t)n * (2 * (size_t)Hn + Q + queries + 2 * I) +
                                       (size_t)n * (m->prompt_width + C + up(hd, NR)) + 4 * NR));
    if (!h) return 1;
    float *q = h + (size_t)n * Hn, *o = q + (size_t)n * Q, *g = o + (size_t)n * queries, *r = g + (size_t)n * 2 * I,
          *s = r + (size_t)n * Hn;
    x += (size_t)from * H, slot += from, prompt += from, lengths += from;
    for (int i = 0; i < n; i++) memcpy(r + (size_t)i * Hn, x + (size_t)i * H, sizeof(float) * H);  // the residual
    for (int l = 0; l < m->layers; l++) {
        const Layer *w = m->layer + l;
        rms_norm(n, H, r, Hn, w->norm, m->epsilon, h, H);
        product(n, h, H, w->qkv, H, Q, w->qkv_bias, NULL, q, Q);
        for (int i = 0; i < n; i++) {
            const float *cos = m->cos + (lengths[i] + t) * hd, *sin = m->sin + (lengths[i] + t) * hd;
            float *z = q + (size_t)i * Q;
            if (w->q_norm) rms_norm(m->heads, hd, z, hd, w->q_norm, m->epsilon, z, hd);
            if (w->k_norm) rms_norm(m->kv_heads, hd, z + queries, hd, w->k_norm, m->epsilon, z + queries, hd);
            for (int a = 0; a < m->heads + m->kv_heads; a++) rotate(z + a * hd, hd, cos, sin);
            for (int j = 0; j < queries; j++) z[j] *= m->scale;
            for (int b = 0; b < m->kv_heads; b++) {
                size_t own = (((size_t)l * m->slots + slot[i]) * m->kv_heads + b) * hd * C;
                const float *k = z + queries + b * hd, *v = k + keys;
                for (int j = 0; j < hd; j++) m->keys[own + (size_t)j * C + t] = k[j];
                memcpy(m->values + own + (size_t)t * hd, v, sizeof(float) * hd);
            }
        }
        for (int i = 0, end; i < n; i = end) {
            for (end = i + 1; end < n && prompt[end] == prompt[i];) end++;
            attend(m, l, end - i, q + (size_t)i * Q, Q, slot + i, prompt[i], (int)lengths[i], t, s,
                   o + (size_t)i * queries);
        }
        product(n, o, queries, w->out, queries, Hn, w->out_bias, r, r, Hn);
        rms_norm(n, H, r, Hn, w->mlp_norm, m->epsilon, h, H);
        product(n, h, H, w->gate_up, H, 2 * I, w->gate_up_bias, NULL, g, 2 * I);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < I; j += W) {
                vec *gate = (vec *)(g + (size_t)i * 2 * I + j);
                *gate = *gate / (splat(1) + vexp(-*gate)) * *(vec *)(g + (size_t)i * 2 * I + I + j);
            }
        product(n, g, 2 * I, w->down, m->intermediate, Hn, w->down_bias, r, r, Hn);
    }
    rms_norm(n, H, r, Hn, m->final_norm, m->epsilon, h, H);
    int V = up(m->vocabulary, NR);
    product(n, h, H, m->head, H, V, NULL, NULL, logits + (size_t)from * V, V);
    free(h);
    return 0;
}
