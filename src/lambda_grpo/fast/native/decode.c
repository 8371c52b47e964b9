// One decoding step: the embedding of a new token of each sequence in, logits out.
//
// The threads divide either the sequences or the columns of the weights. Sequences are independent, so that a thread
// takes some of them through all layers without waiting for the others; but each reads all weights. With a part of the
// columns it reads a part of the weights, and waits for the others several times in a layer. Sequences with the same
// prompt read its keys and values together.

#include "decoder.h"

int lgrpo_vector_width(void) { return W; }
size_t lgrpo_sizeof_layer(void) { return sizeof(Layer); }
size_t lgrpo_sizeof_model(void) { return sizeof(Model); }

// Scores of W tokens, whose keys are laid out as [head_dim][W]. Four sums, since a single one would wait for itself.
static inline void score_tokens(const float *query, const float *keys, int head_dim, float *score) {
    vec a = splat(0), b = splat(0), c = splat(0), d = splat(0);
    for (int j = 0; j < head_dim; j += 4, keys += 4 * W) {
        a += splat(query[j]) * *(const vec *)keys;
        b += splat(query[j + 1]) * *(const vec *)(keys + W);
        c += splat(query[j + 2]) * *(const vec *)(keys + 2 * W);
        d += splat(query[j + 3]) * *(const vec *)(keys + 3 * W);
    }
    *(vec *)score = (a + b) + (c + d);
}

// `sum` plus W dimensions of the mean of values [token][head_dim] under the probabilities p.
static inline vec mean_value(vec sum, const float *p, const float *values, int head_dim, int tokens) {
    vec b = splat(0), c = splat(0), d = splat(0);
    int i = 0;
    for (; i + 4 <= tokens; i += 4, values += (size_t)4 * head_dim) {
        sum += splat(p[i]) * *(const vec *)values;
        b += splat(p[i + 1]) * *(const vec *)(values + head_dim);
        c += splat(p[i + 2]) * *(const vec *)(values + 2 * head_dim);
        d += splat(p[i + 3]) * *(const vec *)(values + 3 * head_dim);
    }
    for (; i < tokens; i++, values += head_dim) sum += splat(p[i]) * *(const vec *)values;
    return (sum + b) + (c + d);
}

// Attention of n sequences with the same prompt: q [n][wide_qkv], out [n][wide_queries]. s: scratch.
static void attend(const Model *m, int layer, int n, const float *q, const int64_t *slot, int64_t prompt, int length,
                   int t, float *s, float *out) {
    int hd = m->head_dim, group = m->heads / m->kv_heads, Q = wide_qkv(m);
    int ld = m->prompt_width + m->max_new, wide = up(hd, NR);
    float *prompt_mean = s + (size_t)n * ld;  // [n][wide]
    for (int a = 0; a < m->heads; a++) {
        product(n, q + a * hd, Q, keys_of_prompt(m, layer, prompt, a / group), hd, up(length, NR), NULL, NULL, s, ld);
        for (int i = 0; i < n; i++) {
            const float *query = q + (size_t)i * Q + a * hd,
                        *keys = m->keys + cache_offset(m, layer, slot[i], a / group);
            float *score = s + (size_t)i * ld;
            for (int c = 0; c <= t; c += W)  // the new tokens' scores follow the prompt's
                score_tokens(query, keys + (size_t)c * hd, hd, score + length + c);
            softmax(score, length + t + 1, up(length + t + 1, W));
        }
        product(n, s, ld, values_of_prompt(m, layer, prompt, a / group), length, wide, NULL, NULL, prompt_mean, wide);
        for (int i = 0; i < n; i++) {
            const float *p = s + (size_t)i * ld + length,
                        *values = m->values + cache_offset(m, layer, slot[i], a / group);
            float *o = out + (size_t)i * wide_queries(m) + a * hd;
            for (int j = 0; j < hd; j += W)
                *(vec *)(o + j) = mean_value(*(vec *)(prompt_mean + (size_t)i * wide + j), p, values + j, hd, t + 1);
        }
    }
}

// Floats of scratch for the attention of a sequence.
static inline size_t attention_scratch(const Model *m) { return m->prompt_width + m->max_new + up(m->head_dim, NR); }

// A step of n sequences by a team. r [n][wide_hidden]: embeddings; q [n][wide_qkv], o [n][wide_queries],
// g [n][2 wide_mlp], s [n][attention_scratch]: scratch of the team; h [n][hidden]: of this thread.
static void decode(const Model *m, Team team, int n, const int64_t *slot, const int64_t *prompt, const int64_t *lengths,
                   int t, float *r, float *q, float *o, float *g, float *s, float *h, float *logits) {
    int Q = wide_qkv(m), hd = m->head_dim, first = begin_of_part(team, n), last = end_of_part(team, n);
    for (int l = 0; l < m->layers; l++) {
        project(m, m->layer + l, team, n, r, lengths, t, h, q);
        for (int i = first; i < last; i++)
            for (int b = 0; b < m->kv_heads; b++) {
                const float *k = q + (size_t)i * Q + wide_queries(m) + b * hd, *v = k + m->kv_heads * hd;
                float *keys = m->keys + cache_offset(m, l, slot[i], b) + (size_t)(t / W) * W * hd + t % W;
                for (int j = 0; j < hd; j++) keys[(size_t)j * W] = k[j];
                memcpy(m->values + cache_offset(m, l, slot[i], b) + (size_t)t * hd, v, sizeof(float) * hd);
            }
        for (int i = first, end; i < last; i = end) {
            for (end = i + 1; end < last && prompt[end] == prompt[i];) end++;
            attend(m, l, end - i, q + (size_t)i * Q, slot + i, prompt[i], (int)lengths[i], t,
                   s + (size_t)i * attention_scratch(m), o + (size_t)i * wide_queries(m));
        }
        transform(m, m->layer + l, team, n, o, r, h, g);
    }
    predict(m, team, n, r, h, logits);
}

// Token t of n sequences. The threads divide the columns of the weights if `by_columns`, else the sequences.
// x [n][hidden]: embeddings; slot, prompt, lengths [n]: each sequence's place in the cache, its prompt, and the
// prompt's length. Sequences with the same prompt are adjacent. logits [n][up(vocabulary, NR)]. Returns 0, or 1 if
// memory ran out.
int lgrpo_decode_step(const Model *m, int n, int by_columns, const float *x, const int64_t *slot, const int64_t *prompt,
                      const int64_t *lengths, int t, float *logits) {
    int threads = by_columns || n > lgrpo_threads ? lgrpo_threads : n;
    size_t H = m->hidden, Hn = wide_hidden(m), Q = wide_qkv(m), O = wide_queries(m), G = 2 * wide_mlp(m),
           S = attention_scratch(m), V = up(m->vocabulary, NR);
    float *r = malloc(sizeof(float) * (n * (Hn + Q + O + G + S + threads * H) + 4 * NR));
    if (!r) return 1;
    float *q = r + n * Hn, *o = q + n * Q, *g = o + n * O, *s = g + n * G, *h = s + n * S;
    for (int i = 0; i < n; i++) memcpy(r + i * Hn, x + i * H, sizeof(float) * H);
#pragma omp parallel num_threads(threads)
    {
        Team all = {thread_index(), thread_count()};
        size_t i = by_columns ? 0 : begin_of_part(all, n);
        int count = by_columns ? n : end_of_part(all, n) - (int)i;
        decode(m, by_columns ? all : ALONE, count, slot + i, prompt + i, lengths + i, t, r + i * Hn, q + i * Q,
               o + i * O, g + i * G, s + i * S, h + all.rank * n * H, logits + i * V);
    }
    free(r);
    return 0;
}
