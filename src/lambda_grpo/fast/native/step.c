// One decoding step: a new token's embedding for each row in, logits out.
//
// Rows are independent, so threads take a range of them through all layers without waiting for each other. The rows of a
// group read their prompt's keys and values together.

#include "decoder.h"

int vector_width(void) { return W; }

// Scores of W places, whose keys stand as [head_dim][W]; four sums, as one would wait for itself.
static inline void score_places(const float *query, const float *keys, int head_dim, float *score) {
    vec a = splat(0), b = splat(0), c = splat(0), d = splat(0);
    for (int j = 0; j < head_dim; j += 4, keys += 4 * W) {
        a += splat(query[j]) * *(const vec *)keys;
        b += splat(query[j + 1]) * *(const vec *)(keys + W);
        c += splat(query[j + 2]) * *(const vec *)(keys + 2 * W);
        d += splat(query[j + 3]) * *(const vec *)(keys + 3 * W);
    }
    *(vec *)score = (a + b) + (c + d);
}

// W numbers of the mean of `places` values, [place][head_dim], by their probabilities, added to `sum`.
static inline vec mean_value(vec sum, const float *p, const float *values, int head_dim, int places) {
    vec b = splat(0), c = splat(0), d = splat(0);
    int i = 0;
    for (; i + 4 <= places; i += 4, values += (size_t)4 * head_dim) {
        sum += splat(p[i]) * *(const vec *)values;
        b += splat(p[i + 1]) * *(const vec *)(values + head_dim);
        c += splat(p[i + 2]) * *(const vec *)(values + 2 * head_dim);
        d += splat(p[i + 3]) * *(const vec *)(values + 3 * head_dim);
    }
    for (; i < places; i++, values += head_dim) sum += splat(p[i]) * *(const vec *)values;
    return (sum + b) + (c + d);
}

// Attention of a run of rows that share a prompt: q [rows][wide_qkv], out [rows][wide_queries].
static void attend(const Model *m, int layer, int rows, const float *q, const int64_t *slot, int64_t prompt, int length,
                   int t, float *s, float *out) {
    int hd = m->head_dim, shared = m->heads / m->kv_heads, Q = wide_qkv(m);
    int ld = m->prompt_width + m->max_new, wide = up(hd, NR);
    float *part = s + (size_t)rows * ld;  // [rows][wide]
    for (int a = 0; a < m->heads; a++) {
        product(rows, q + a * hd, Q, keys_of_prompt(m, layer, prompt, a / shared), hd, up(length, NR), NULL, NULL, s, ld);
        for (int i = 0; i < rows; i++) {
            const float *query = q + (size_t)i * Q + a * hd, *keys = m->keys + own(m, layer, slot[i], a / shared);
            float *score = s + (size_t)i * ld;
            for (int c = 0; c <= t; c += W)  // behind the prompt's own scores
                score_places(query, keys + (size_t)c * hd, hd, score + length + c);
            softmax(score, length + t + 1, up(length + t + 1, W));
        }
        // the probabilities' first `length` times the prompt's values
        product(rows, s, ld, values_of_prompt(m, layer, prompt, a / shared), length, wide, NULL, NULL, part, wide);
        for (int i = 0; i < rows; i++) {
            const float *p = s + (size_t)i * ld + length, *values = m->values + own(m, layer, slot[i], a / shared);
            float *o = out + (size_t)i * wide_queries(m) + a * hd;
            for (int j = 0; j < hd; j += W)
                *(vec *)(o + j) = mean_value(*(vec *)(part + (size_t)i * wide + j), p, values + j, hd, t + 1);
        }
    }
}

// Rows `from` .. `to` of a step.
static int some_rows(const Model *m, int from, int to, const float *x, const int64_t *slot, const int64_t *prompt,
                     const int64_t *lengths, int t, float *logits) {
    int n = to - from, H = m->hidden, Hn = wide_hidden(m), Q = wide_qkv(m), hd = m->head_dim;
    size_t attention = m->prompt_width + m->max_new + up(hd, NR);
    float *r = malloc(sizeof(float) * ((size_t)n * (Hn + Q + wide_queries(m) + H + 2 * wide_mlp(m) + attention) + 4 * NR));
    if (!r) return 1;
    float *q = r + (size_t)n * Hn, *o = q + (size_t)n * Q, *h = o + (size_t)n * wide_queries(m), *g = h + (size_t)n * H,
          *s = g + (size_t)n * 2 * wide_mlp(m);
    slot += from, prompt += from, lengths += from;
    for (int i = 0; i < n; i++) memcpy(r + (size_t)i * Hn, x + (size_t)(from + i) * H, sizeof(float) * H);
    for (int l = 0; l < m->layers; l++) {
        project(m, m->layer + l, n, r, lengths, t, h, q);
        for (int i = 0; i < n; i++)
            for (int b = 0; b < m->kv_heads; b++) {
                const float *k = q + (size_t)i * Q + wide_queries(m) + b * hd, *v = k + m->kv_heads * hd;
                float *keys = m->keys + own(m, l, slot[i], b) + (size_t)(t / W) * W * hd + t % W;
                for (int j = 0; j < hd; j++) keys[(size_t)j * W] = k[j];
                memcpy(m->values + own(m, l, slot[i], b) + (size_t)t * hd, v, sizeof(float) * hd);
            }
        for (int i = 0, end; i < n; i = end) {
            for (end = i + 1; end < n && prompt[end] == prompt[i];) end++;
            attend(m, l, end - i, q + (size_t)i * Q, slot + i, prompt[i], (int)lengths[i], t, s,
                   o + (size_t)i * wide_queries(m));
        }
        transform(m, m->layer + l, n, o, r, h, g);
    }
    predict(m, n, r, h, logits + (size_t)from * up(m->vocabulary, NR));
    free(r);
    return 0;
}

// Token t of n rows, in `parts` at the same time. x [row][hidden]; slot, prompt, length: of each row; rows of one prompt
// stand together. logits [row][up(vocabulary, NR)]. Returns 0, or how many parts found no memory.
int step(const Model *m, int n, int parts, const float *x, const int64_t *slot, const int64_t *prompt, const int64_t *lengths,
         int t, float *logits) {
    int failed = 0;
#pragma omp parallel for num_threads(team) schedule(static, 1) reduction(+ : failed)
    for (int p = 0; p < parts; p++)
        failed += some_rows(m, n * p / parts, n * (p + 1) / parts, x, slot, prompt, lengths, t, logits);
    return failed;
}
