// Reading prompts: their keys, values, and what is likely to follow.

#include "decoder.h"

enum { BLOCK = 64 };  // tokens that go through a layer together, and queries whose scores are in memory together

// Puts a head's keys and values of a prompt into panels; then attention of its tokens `first` .. `length` to those up to
// themselves. q and o: of the prompt's first token. s: [BLOCK][prompt_width + up(head_dim, NR)].
static void attend_causally(const Model *m, int layer, int64_t prompt, int b, int first, int length, const float *q,
                            float *s, float *o) {
    int hd = m->head_dim, Q = wide_qkv(m), ldo = wide_queries(m), shared = m->heads / m->kv_heads;
    int ld = m->prompt_width, wide = up(hd, NR);
    float *keys = keys_of_prompt(m, layer, prompt, b), *values = values_of_prompt(m, layer, prompt, b);
    float *part = s + (size_t)BLOCK * ld;
    const float *k = q + ldo + b * hd, *v = k + m->kv_heads * hd;
    panels_of_rows(length, hd, k, Q, keys);
    panels(length, hd, v, Q, values);
    for (int a = b * shared; a < (b + 1) * shared; a++)
        for (int i = first; i < length; i += BLOCK) {
            int n = length - i < BLOCK ? length - i : BLOCK, seen = i + n;
            product(n, q + (size_t)i * Q + a * hd, Q, keys, hd, up(seen, NR), NULL, NULL, s, ld);
            for (int j = 0; j < n; j++) softmax(s + (size_t)j * ld, i + j + 1, up(seen, W));
            for (int c = 0; c < wide; c += NR)
                product(n, s, ld, values + (size_t)c * length, seen, NR, NULL, NULL, part + c, wide);
            for (int j = 0; j < n; j++)
                memcpy(o + (size_t)(i + j) * ldo + a * hd, part + (size_t)j * wide, sizeof(float) * hd);
        }
}

// Reads the prompts, n tokens one prompt after another: prompt u's are start[u] .. start[u + 1]. x [n][hidden];
// position[n] of each. Fills prompt_keys and prompt_values; logits [prompt][up(vocabulary)] after the last tokens.
// Returns 0, or 1: no memory.
int read_prompts(const Model *m, int n, const int64_t *start, const int64_t *position, const float *x, float *logits) {
    int H = m->hidden, Hn = wide_hidden(m), Q = wide_qkv(m), ldo = wide_queries(m), U = m->prompts;
    int parts = (n + team * BLOCK - 1) / (team * BLOCK) * team;
    size_t room = (size_t)BLOCK * (H + 2 * wide_mlp(m)), scores = (size_t)BLOCK * (m->prompt_width + up(m->head_dim, NR));
    if (room < scores) room = scores;
    float *r = malloc(sizeof(float) * ((size_t)n * (Hn + Q + ldo) + team * room + NR));
    if (!r) return 1;
    float *q = r + (size_t)n * Hn, *o = q + (size_t)n * Q, *at = o + (size_t)n * ldo;
    for (int i = 0; i < n; i++) memcpy(r + (size_t)i * Hn, x + (size_t)i * H, sizeof(float) * H);
#pragma omp parallel num_threads(team)
    for (int l = 0; l < m->layers; l++) {
        float *h = at + own_thread() * room, *g = h + (size_t)BLOCK * H;
        int is_last = l == m->layers - 1;
#pragma omp for schedule(static)
        for (int p = 0; p < parts; p++) {
            size_t from = (size_t)n * p / parts, to = (size_t)n * (p + 1) / parts;
            project(m, m->layer + l, to - from, r + from * Hn, position + from, 0, h, q + from * Q);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int u = 0; u < U; u++)
            for (int b = 0; b < m->kv_heads; b++) {
                int length = start[u + 1] - start[u];
                attend_causally(m, l, u, b, is_last ? length - 1 : 0, length, q + start[u] * Q, h, o + start[u] * ldo);
            }
        if (is_last) {  // beyond its keys and values only the prompts' last tokens count
#pragma omp single
            for (int u = 0; u < U; u++) {
                memmove(r + (size_t)u * Hn, r + (start[u + 1] - 1) * Hn, sizeof(float) * Hn);
                memmove(o + (size_t)u * ldo, o + (start[u + 1] - 1) * ldo, sizeof(float) * ldo);
            }
        }
        int rows = is_last ? U : n;
#pragma omp for schedule(static)
        for (int p = 0; p < parts; p++) {
            size_t from = (size_t)rows * p / parts, to = (size_t)rows * (p + 1) / parts;
            transform(m, m->layer + l, to - from, o + from * ldo, r + from * Hn, h, g);
            if (is_last) predict(m, to - from, r + from * Hn, h, logits + from * up(m->vocabulary, NR));
        }
    }
    free(r);
    return 0;
}
