// Rotary attention over a packed sequence, and its gradient, in float32.
//
// The packed sequence holds each prompt once and, after the prompts, one segment for each completion. A token of a
// segment attends to its prompt and, causally, to its own segment. Threads share the work by (prompt, key-value head):
// the prompt's keys are rotated and put into panels once for all of its segments, and one thread sums their gradients
// in a fixed order, so that results don't depend on the number of threads.

#include "vectors.h"

enum { BLOCK = 32 };  // queries whose scores are in memory at the same time

// `PackedSequence` of native/structures.py. Starts and lengths count tokens; the segments of prompt u are
// first_segment[u] .. first_segment[u + 1] - 1.
typedef struct {
    int64_t prompts;
    const int64_t *prompt_start, *prompt_length, *first_segment, *segment_start, *segment_length;
    int heads, kv_heads, head_dim;
    float scale;
    const float *q, *k, *v, *cos, *sin;  // [token][heads][head_dim], [token][kv_heads][head_dim], [token][head_dim]
} PackedSequence;

size_t lgrpo_sizeof_packed_sequence(void) { return sizeof(PackedSequence); }

// Rotated keys and values of one prompt or segment, for one key-value head. `by_key`: panels of NR keys,
// [keys / NR][head_dim][NR]; `by_dim`: panels of NR dimensions, [head_dim / NR][keys][NR]. dk, dv: their gradients,
// [keys][up(head_dim, NR)].
typedef struct {
    int64_t start;
    int keys, padded_keys;
    float *k_by_key, *k_by_dim, *v_by_key, *v_by_dim, *dk, *dv;
} KeyValues;

// y [n][columns] += xᵀ w; x [depth][ldx], w in panels
static void add_transposed(int n, const float *x, int ldx, const float *w, int depth, int columns, float *y) {
    for (int c = 0; c < columns; c += NR, w += (size_t)depth * NR)
        for (int i = 0; i < n; i += MR) {
            float *to = y + (size_t)i * columns + c;
            strip(n - i < MR ? n - i : MR, x + i, 1, ldx, w, depth, NULL, to, to, columns, w + (size_t)depth * NR, W);
        }
}

// Floats that a KeyValues points to.
static size_t key_values_size(int keys, int d, int gradient) {
    size_t rows = up(keys, NR), wide = up(d, NR);
    return rows * wide * (gradient ? 6 : 2);
}

// Loads the keys and values of `keys` tokens from `start` on. `memory` has key_values_size() floats, `scratch`
// [keys][head_dim].
static void load_key_values(const PackedSequence *p, int kv_head, int64_t start, int keys, int gradient, KeyValues *kv,
                            float *memory, float *scratch) {
    int d = p->head_dim;
    size_t ld = (size_t)p->kv_heads * d, size = key_values_size(keys, d, 0) / 2;
    const float *k = p->k + start * ld + kv_head * d, *v = p->v + start * ld + kv_head * d;
    *kv = (KeyValues){start, keys, up(keys, NR), memory, NULL, NULL, memory + size, NULL, NULL};
    for (int i = 0; i < keys; i++)
        rotate(scratch + (size_t)i * d, k + i * ld, d, p->cos + (start + i) * d, p->sin + (start + i) * d, 1);
    to_panels_transposed(keys, d, scratch, d, kv->k_by_key);
    to_panels(keys, d, v, ld, kv->v_by_dim);
    if (!gradient) return;
    kv->k_by_dim = memory + 2 * size, kv->v_by_key = memory + 3 * size;
    kv->dk = memory + 4 * size, kv->dv = memory + 5 * size;
    to_panels(keys, d, scratch, d, kv->k_by_dim);
    to_panels_transposed(keys, d, v, ld, kv->v_by_key);
    memset(kv->dk, 0, sizeof(float) * 2 * size);
}

// Scores of n queries of one head from `token` on: over the prompt's keys (unless `prompt` is NULL), then causally over
// `own`, the keys of the queries' own prompt or segment. Writes the rotated and scaled queries to q [n][head_dim] and
// the scores to s. Returns the leading dimension of s.
static int make_scores(const PackedSequence *p, int head, int64_t token, int n, const KeyValues *prompt,
                       const KeyValues *own, float *q, float *s) {
    int d = p->head_dim, before = prompt ? prompt->padded_keys : 0;
    int seen = (int)(token - own->start) + n, ld = before + up(seen, NR);
    for (int i = 0; i < n; i++)
        rotate(q + (size_t)i * d, p->q + ((token + i) * p->heads + head) * d, d, p->cos + (token + i) * d,
               p->sin + (token + i) * d, p->scale);
    if (prompt) product(n, q, d, prompt->k_by_key, d, before, NULL, NULL, s, ld);
    product(n, q, d, own->k_by_key, d, up(seen, NR), NULL, NULL, s + before, ld);
    for (int i = 0; i < n; i++) {
        for (int j = prompt ? prompt->keys : 0; j < before; j++) s[(size_t)i * ld + j] = -INFINITY;
        for (int j = seen - n + i + 1; j < up(seen, NR); j++) s[(size_t)i * ld + before + j] = -INFINITY;
    }
    return ld;
}

// y [n][wide] = x [n][ld], a weight for each key of the prompt and of `own`, times matrices in panels by dimension: the
// prompt's and the first `seen` rows of `own`'s.
static void sum_over_keys(int n, const float *x, int ld, const KeyValues *prompt, const float *prompt_panels,
                          const KeyValues *own, const float *own_panels, int seen, int wide, float *y) {
    int before = prompt ? prompt->padded_keys : 0;
    for (int c = 0; c < wide; c += NR) {  // a panel has a row for each key, of which the first ones are read
        if (prompt)
            product(n, x, ld, prompt_panels + (size_t)c * prompt->keys, prompt->keys, NR, NULL, NULL, y + c, wide);
        product(n, x + before, ld, own_panels + (size_t)c * own->keys, seen, NR, NULL, prompt ? y + c : NULL, y + c,
                wide);
    }
}

// Attention of the tokens of `own` for the query heads that share key-value head `kv_head`.
static void forward_tokens(const PackedSequence *p, int kv_head, const KeyValues *prompt, const KeyValues *own,
                           float *q, float *s, float *y, float *out, float *lse) {
    int d = p->head_dim, wide = up(d, NR), group = p->heads / p->kv_heads;
    for (int a = kv_head * group; a < (kv_head + 1) * group; a++)
        for (int from = 0, n; from < own->keys; from += n) {
            n = own->keys - from < BLOCK ? own->keys - from : BLOCK;
            int64_t token = own->start + from;
            int ld = make_scores(p, a, token, n, prompt, own, q, s);
            for (int i = 0; i < n; i++) lse[(token + i) * p->heads + a] = softmax(s + (size_t)i * ld, ld, ld);
            sum_over_keys(n, s, ld, prompt, prompt ? prompt->v_by_dim : NULL, own, own->v_by_dim, from + n, wide, y);
            for (int i = 0; i < n; i++)
                memcpy(out + ((token + i) * p->heads + a) * d, y + (size_t)i * wide, sizeof(float) * d);
        }
}

// The gradient of forward_tokens. With P the probabilities, made again from the scores and their log-sum-exps:
// dP = g vᵀ, dS = P (dP - g·out), dq = dS k, dk = dSᵀ q, dv = Pᵀ g.
static void backward_tokens(const PackedSequence *p, int kv_head, const KeyValues *prompt, const KeyValues *own,
                            const float *g, const float *out, const float *lse, float *q, float *s, float *dp, float *y,
                            float *dq) {
    int d = p->head_dim, wide = up(d, NR), group = p->heads / p->kv_heads, before = prompt ? prompt->padded_keys : 0;
    float *panels = y + (size_t)BLOCK * wide;
    for (int a = kv_head * group; a < (kv_head + 1) * group; a++)
        for (int from = 0, n; from < own->keys; from += n) {
            n = own->keys - from < BLOCK ? own->keys - from : BLOCK;
            int64_t token = own->start + from;
            size_t ldg = (size_t)p->heads * d, at = token * ldg + (size_t)a * d;
            int ld = make_scores(p, a, token, n, prompt, own, q, s), seen = from + n;
            if (prompt) product(n, g + at, (int)ldg, prompt->v_by_key, d, before, NULL, NULL, dp, ld);
            product(n, g + at, (int)ldg, own->v_by_key, d, up(seen, NR), NULL, NULL, dp + before, ld);
            for (int i = 0; i < n; i++) {
                float dot = 0, log_sum = lse[(token + i) * p->heads + a];
                for (int j = 0; j < d; j++) dot += g[at + i * ldg + j] * out[at + i * ldg + j];
                for (int c = i * ld; c < (i + 1) * ld; c += W) {
                    vec probability = vexp(*(vec *)(s + c) - splat(log_sum));
                    *(vec *)(s + c) = probability;
                    *(vec *)(dp + c) = probability * (*(vec *)(dp + c) - splat(dot));
                }
            }
            to_panels(n, d, g + at, ldg, panels);
            if (prompt) add_transposed(prompt->keys, s, ld, panels, n, wide, prompt->dv);
            add_transposed(seen, s + before, ld, panels, n, wide, own->dv);
            to_panels(n, d, q, d, panels);
            if (prompt) add_transposed(prompt->keys, dp, ld, panels, n, wide, prompt->dk);
            add_transposed(seen, dp + before, ld, panels, n, wide, own->dk);
            sum_over_keys(n, dp, ld, prompt, prompt ? prompt->k_by_dim : NULL, own, own->k_by_dim, seen, wide, y);
            for (int i = 0; i < n; i++)
                rotate_back(dq + at + i * ldg, y + (size_t)i * wide, d, p->cos + (token + i) * d,
                            p->sin + (token + i) * d, p->scale);
        }
}

static void store_gradients(const PackedSequence *p, int kv_head, const KeyValues *kv, float *dk, float *dv) {
    int d = p->head_dim, wide = up(d, NR);
    for (int i = 0; i < kv->keys; i++) {
        rotate_back(dk + ((kv->start + i) * p->kv_heads + kv_head) * d, kv->dk + (size_t)i * wide, d,
                    p->cos + (kv->start + i) * d, p->sin + (kv->start + i) * d, 1);
        memcpy(dv + ((kv->start + i) * p->kv_heads + kv_head) * d, kv->dv + (size_t)i * wide, sizeof(float) * d);
    }
}

// A prompt with its segments, for one key-value head: attention, or its gradient if dq isn't NULL. Returns 0, or 1 if
// memory ran out.
static int attend_prompt(const PackedSequence *p, int64_t u, int kv_head, float *out, float *lse, const float *g,
                         float *dq, float *dk, float *dv) {
    int d = p->head_dim, wide = up(d, NR), P = (int)p->prompt_length[u], longest = 1, gradient = dq != NULL;
    for (int64_t i = p->first_segment[u]; i < p->first_segment[u + 1]; i++)
        longest = p->segment_length[i] > longest ? (int)p->segment_length[i] : longest;
    size_t prompt_size = key_values_size(P, d, gradient), segment_size = key_values_size(longest, d, gradient);
    size_t scores = (size_t)BLOCK * (up(P, NR) + up(longest > P ? longest : P, NR)) + NR;
    size_t rows = (size_t)(longest > P ? longest : P) + BLOCK;
    float *memory =
        malloc(sizeof(float) * (prompt_size + segment_size + 2 * scores + rows * d + 2 * BLOCK * (size_t)wide));
    if (!memory) return 1;
    float *segment_memory = memory + prompt_size, *s = segment_memory + segment_size, *dp = s + scores,
          *q = dp + scores, *y = q + rows * d;
    KeyValues prompt, segment;
    load_key_values(p, kv_head, p->prompt_start[u], P, gradient, &prompt, memory, q);
    if (!gradient) forward_tokens(p, kv_head, NULL, &prompt, q, s, y, out, lse);
    for (int64_t i = p->first_segment[u]; i < p->first_segment[u + 1]; i++) {
        load_key_values(p, kv_head, p->segment_start[i], (int)p->segment_length[i], gradient, &segment, segment_memory,
                        q);
        if (!gradient) {
            forward_tokens(p, kv_head, P ? &prompt : NULL, &segment, q, s, y, out, lse);
        } else {
            backward_tokens(p, kv_head, P ? &prompt : NULL, &segment, g, out, lse, q, s, dp, y, dq);
            store_gradients(p, kv_head, &segment, dk, dv);
        }
    }
    if (gradient) {
        backward_tokens(p, kv_head, NULL, &prompt, g, out, lse, q, s, dp, y, dq);
        store_gradients(p, kv_head, &prompt, dk, dv);
    }
    free(memory);
    return 0;
}

// Attention, or its gradient if dq isn't NULL. out, g and dq are laid out as q, dk and dv as k; lse [token][heads]
// holds the log-sum-exps of the scores. Returns 0, or how many pairs of a prompt and a key-value head ran out of
// memory.
int lgrpo_packed_attention(const PackedSequence *p, float *out, float *lse, const float *g, float *dq, float *dk,
                           float *dv) {
    int failed = 0;
#pragma omp parallel for num_threads(lgrpo_threads) collapse(2) schedule(dynamic) reduction(+ : failed)
    for (int64_t u = 0; u < p->prompts; u++)
        for (int kv_head = 0; kv_head < p->kv_heads; kv_head++)
            failed += attend_prompt(p, u, kv_head, out, lse, g, dq, dk, dv);
    return failed;
}
