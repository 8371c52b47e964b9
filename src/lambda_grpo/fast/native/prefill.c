// Reading prompts: fills the cache of their keys and values, and returns the logits after their last tokens.

#include "decoder.h"

enum { BLOCK = 64 };  // tokens that pass through a layer together, and queries whose scores are in memory together

// Caches a prompt's keys and values for key-value head b, then computes causal attention of its tokens `first` ..
// `length` - 1. q and o begin at the prompt's first token. s: scratch, [BLOCK][prompt_width + up(head_dim, NR)].
static void attend_causally(const Model *m, int layer, int64_t prompt, int b, int first, int length, const float *q,
                            float *s, float *o) {
    int hd = m->head_dim, Q = wide_qkv(m), ldo = wide_queries(m), group = m->heads / m->kv_heads;
    int ld = m->prompt_width, wide = up(hd, NR);
    float *keys = keys_of_prompt(m, layer, prompt, b), *values = values_of_prompt(m, layer, prompt, b);
    float *mean = s + (size_t)BLOCK * ld;
    const float *k = q + ldo + b * hd, *v = k + m->kv_heads * hd;
    to_panels_transposed(length, hd, k, Q, keys);
    to_panels(length, hd, v, Q, values);
    for (int a = b * group; a < (b + 1) * group; a++)
        for (int i = first; i < length; i += BLOCK) {
            int n = length - i < BLOCK ? length - i : BLOCK, seen = i + n;
            product(n, q + (size_t)i * Q + a * hd, Q, keys, hd, up(seen, NR), NULL, NULL, s, ld);
            for (int j = 0; j < n; j++) softmax(s + (size_t)j * ld, i + j + 1, up(seen, W));
            for (int c = 0; c < wide; c += NR)
                product(n, s, ld, values + (size_t)c * length, seen, NR, NULL, NULL, mean + c, wide);
            for (int j = 0; j < n; j++)
                memcpy(o + (size_t)(i + j) * ldo + a * hd, mean + (size_t)j * wide, sizeof(float) * hd);
        }
}

// Reads all prompts, n tokens in total, one prompt after another: prompt u has tokens start[u] .. start[u + 1] - 1.
// x [n][hidden]: embeddings; position [n]. Fills prompt_keys and prompt_values. logits: [prompt][up(vocabulary, NR)].
// Returns 0, or 1 if memory ran out.
int lgrpo_prefill(const Model *m, int n, const int64_t *start, const int64_t *position, const float *x, float *logits) {
    int H = m->hidden, Hn = wide_hidden(m), Q = wide_qkv(m), ldo = wide_queries(m), U = m->prompts;
    int chunks = (n + lgrpo_threads * BLOCK - 1) / (lgrpo_threads * BLOCK) * lgrpo_threads;
    size_t room = (size_t)BLOCK * (H + 2 * wide_mlp(m)),
           scores = (size_t)BLOCK * (m->prompt_width + up(m->head_dim, NR));
    if (room < scores) room = scores;
    float *r = malloc(sizeof(float) * ((size_t)n * (Hn + Q + ldo) + lgrpo_threads * room + NR));
    if (!r) return 1;
    float *q = r + (size_t)n * Hn, *o = q + (size_t)n * Q, *scratch = o + (size_t)n * ldo;
    for (int i = 0; i < n; i++) memcpy(r + (size_t)i * Hn, x + (size_t)i * H, sizeof(float) * H);
#pragma omp parallel num_threads(lgrpo_threads)
    for (int l = 0; l < m->layers; l++) {
        float *h = scratch + thread_index() * room, *g = h + (size_t)BLOCK * H;
        int is_last = l == m->layers - 1;
#pragma omp for schedule(static)
        for (int p = 0; p < chunks; p++) {
            size_t from = (size_t)n * p / chunks, to = (size_t)n * (p + 1) / chunks;
            project(m, m->layer + l, ALONE, to - from, r + from * Hn, position + from, 0, h, q + from * Q);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int u = 0; u < U; u++)
            for (int b = 0; b < m->kv_heads; b++) {
                int length = start[u + 1] - start[u];
                attend_causally(m, l, u, b, is_last ? length - 1 : 0, length, q + start[u] * Q, h, o + start[u] * ldo);
            }
        if (is_last) {  // the logits need nothing more but the prompts' last tokens
#pragma omp single
            for (int u = 0; u < U; u++) {
                memmove(r + (size_t)u * Hn, r + (start[u + 1] - 1) * Hn, sizeof(float) * Hn);
                memmove(o + (size_t)u * ldo, o + (start[u + 1] - 1) * ldo, sizeof(float) * ldo);
            }
        }
        int rows = is_last ? U : n;
#pragma omp for schedule(static)
        for (int p = 0; p < chunks; p++) {
            size_t from = (size_t)rows * p / chunks, to = (size_t)rows * (p + 1) / chunks;
            transform(m, m->layer + l, ALONE, to - from, o + from * ldo, r + from * Hn, h, g);
            if (is_last) predict(m, ALONE, to - from, r + from * Hn, h, logits + from * up(m->vocabulary, NR));
        }
    }
    free(r);
    return 0;
}
