// A Llama-like decoder in float32, as sampling computes it: its weights, its cache, and a layer but for the attention.
//
// Matrices are stored in panels of NR columns, [columns / NR][depth][NR], so that one kernel multiplies by weights and
// by the prompts' keys and values alike.

#pragma once

#include "vectors.h"

// The weights of a layer, `Layer` of native/structures.py: matrices in panels; biases padded like their panels, or
// NULL.
typedef struct {
    const float *norm, *qkv, *qkv_bias, *q_norm, *k_norm, *out, *out_bias, *mlp_norm, *gate_up, *gate_up_bias, *down,
        *down_bias;
} Layer;

// A decoder with the cache of a batch, `Model` of native/structures.py.
typedef struct {
    int layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary;
    int prompts, prompt_width, slots, max_new;  // prompt_width: a multiple of NR; max_new: of W
    float epsilon, scale;
    const Layer *layer;
    const float *final_norm, *head, *cos, *sin;  // cos, sin: [position][head_dim]
    // [layer][prompt][kv_head], each with room for prompt_width tokens, which hold panels as long as the prompt:
    // [tokens / NR][head_dim][NR] of keys, [head_dim / NR][tokens][NR] of values
    float *prompt_keys, *prompt_values;
    // of generated tokens, [layer][slot][kv_head]: [max_new / W][head_dim][W] of keys, [max_new][head_dim] of values
    float *keys, *values;
} Model;

// Floats in a row of: hidden states; queries, keys and values; queries alone; the MLP's gate or up.
static inline int wide_hidden(const Model *m) { return up(m->hidden, NR); }
static inline int wide_qkv(const Model *m) { return up((m->heads + 2 * m->kv_heads) * m->head_dim, NR); }
static inline int wide_queries(const Model *m) { return m->heads * m->head_dim; }
static inline int wide_mlp(const Model *m) { return up(m->intermediate, NR); }

static inline float *keys_of_prompt(const Model *m, int layer, int64_t prompt, int kv_head) {
    size_t before = ((size_t)layer * m->prompts + prompt) * m->kv_heads + kv_head;
    return m->prompt_keys + before * m->prompt_width * m->head_dim;
}
static inline float *values_of_prompt(const Model *m, int layer, int64_t prompt, int kv_head) {
    size_t before = ((size_t)layer * m->prompts + prompt) * m->kv_heads + kv_head;
    return m->prompt_values + before * m->prompt_width * up(m->head_dim, NR);
}
// Where in `keys` and in `values` a sequence's cache begins.
static inline size_t cache_offset(const Model *m, int layer, int64_t slot, int kv_head) {
    return (((size_t)layer * m->slots + slot) * m->kv_heads + kv_head) * m->head_dim * m->max_new;
}

// Threads that compute the same tokens together: number `rank` of `size`. Of a product, each computes some of the
// columns; of what a token needs alone, some of the tokens. A team of one doesn't wait for anybody.
typedef struct {
    int rank, size;
} Team;
static const Team ALONE = {0, 1};

static inline int begin_of_part(Team team, int n) { return (int)((int64_t)n * team.rank / team.size); }
static inline int end_of_part(Team team, int n) { return (int)((int64_t)n * (team.rank + 1) / team.size); }

// Waits until every thread of the team has come here.
static inline void meet(Team team) {
    if (team.size > 1) {
#pragma omp barrier
    }
}

// This thread's columns of a `product`.
static inline void multiply(Team team, int rows, const float *x, int ldx, const float *w, int depth, int columns,
                            const float *bias, const float *add, float *y, int ldy) {
    int from = begin_of_part(team, columns / NR) * NR, to = end_of_part(team, columns / NR) * NR;
    product(rows, x, ldx, w + (size_t)from * depth, depth, to - from, bias ? bias + from : NULL,
            add ? add + from : NULL, y + from, ldy);
}

static inline void rms_norm(int rows, int size, const float *x, int ldx, const float *weight, float epsilon, float *y,
                            int ldy) {
    for (int i = 0; i < rows; i++) rms_norm_row(size, x + (size_t)i * ldx, weight, epsilon, y + (size_t)i * ldy);
}

// A layer up to its attention, for n tokens with residual stream r: q [n][wide_qkv] holds their queries (rotated,
// scaled), keys (rotated) and values, for this thread's part of the tokens. Token i is at position[i] + t.
// h [n][hidden]: scratch of this thread.
static inline void project(const Model *m, const Layer *w, Team team, int n, const float *r, const int64_t *position,
                           int t, float *h, float *q) {
    int hd = m->head_dim, Q = wide_qkv(m), queries = wide_queries(m);
    rms_norm(n, m->hidden, r, wide_hidden(m), w->norm, m->epsilon, h, m->hidden);
    multiply(team, n, h, m->hidden, w->qkv, m->hidden, Q, w->qkv_bias, NULL, q, Q);
    meet(team);
    for (int i = begin_of_part(team, n); i < end_of_part(team, n); i++) {
        const float *cos = m->cos + (position[i] + t) * hd, *sin = m->sin + (position[i] + t) * hd;
        float *head = q + (size_t)i * Q;
        if (w->q_norm) rms_norm(m->heads, hd, head, hd, w->q_norm, m->epsilon, head, hd);
        if (w->k_norm) rms_norm(m->kv_heads, hd, head + queries, hd, w->k_norm, m->epsilon, head + queries, hd);
        for (int a = 0; a < m->heads + m->kv_heads; a++, head += hd)
            rotate(head, head, hd, cos, sin, a < m->heads ? m->scale : 1);
    }
}

// A layer from its attention on, for n tokens: adds to the residual stream r the output projection of the heads'
// outputs o, then the MLP. h [n][hidden]: scratch of this thread; g [n][2 wide_mlp]: of the team.
static inline void transform(const Model *m, const Layer *w, Team team, int n, const float *o, float *r, float *h,
                             float *g) {
    int H = m->hidden, Hn = wide_hidden(m), I = wide_mlp(m);
    meet(team);
    multiply(team, n, o, wide_queries(m), w->out, wide_queries(m), Hn, w->out_bias, r, r, Hn);
    meet(team);
    rms_norm(n, H, r, Hn, w->mlp_norm, m->epsilon, h, H);
    const float *bias = w->gate_up_bias;
    multiply(team, n, h, H, w->gate_up, H, I, bias, NULL, g, 2 * I);
    multiply(team, n, h, H, w->gate_up + (size_t)H * I, H, I, bias ? bias + I : NULL, NULL, g + I, 2 * I);
    int from = begin_of_part(team, I / NR) * NR, to = end_of_part(team, I / NR) * NR;  // as `multiply` did
    for (int i = 0; i < n; i++)
        for (int j = from; j < to; j += W) {
            vec *gate = (vec *)(g + (size_t)i * 2 * I + j);
            *gate = silu(*gate) * *(vec *)(g + (size_t)i * 2 * I + I + j);
        }
    meet(team);
    multiply(team, n, g, 2 * I, w->down, m->intermediate, Hn, w->down_bias, r, r, Hn);
    meet(team);
}

// Logits [n][up(vocabulary, NR)] of n tokens with residual stream r. h [n][hidden]: scratch of this thread.
static inline void predict(const Model *m, Team team, int n, const float *r, float *h, float *logits) {
    int V = up(m->vocabulary, NR);
    rms_norm(n, m->hidden, r, wide_hidden(m), m->final_norm, m->epsilon, h, m->hidden);
    multiply(team, n, h, m->hidden, m->head, m->hidden, V, NULL, NULL, logits, V);
}
