// Rotary attention over a packed row, and its gradient, in float32.
//
// A prompt comes once and its completions' segments after it. A segment's tokens see the prompt's and, up to themselves,
// the segment's own. The work is shared out by prompt and head of keys: its keys are rotated and put into panels once,
// for all of its segments, and what they get of a gradient is summed by one thread, in one order.

#include "vectors.h"

enum { BLOCK = 32 };  // queries whose scores are in memory together

typedef struct {  // starts and lengths in the flat row; segments of prompt u: first[u] .. first[u + 1]
    int64_t prompts;
    const int64_t *prompt_start, *prompt_length, *first, *start, *length;
    int heads, kv_heads, head_dim;
    float scale;
    const float *q, *k, *v, *cos, *sin;  // [token][heads][head_dim], [token][kv_heads][head_dim], [token][head_dim]
} Row;

typedef struct {  // keys and values of a run of tokens; `by_key`: panels of keys, [keys / NR][head_dim][NR]; `by_dim`:
                  // [head_dim / NR][keys][NR]; dk, dv [keys][up(head_dim, NR)]
    int64_t start;
    int keys, room;
    float *k_by_key, *k_by_dim, *v_by_key, *v_by_dim, *dk, *dv;
} Run;

// y [n][columns] += xᵀ w; x [depth][ldx], w in panels
static void add_transposed(int n, const float *x, int ldx, const float *w, int depth, int columns, float *y) {
    for (int c = 0; c < columns; c += NR, w += (size_t)depth * NR)
        for (int i = 0; i < n; i += MR) {
            float *to = y + (size_t)i * columns + c;
            strip(n - i < MR ? n - i : MR, x + i, 1, ldx, w, depth, NULL, to, to, columns);
        }
}

static size_t run_room(int keys, int d, int gradient) {
    size_t rows = up(keys, NR), wide = up(d, NR);
    return rows * wide * (gradient ? 6 : 2);
}

// Fills a run from the row; `at` has run_room() floats, `scratch` [keys][head_dim].
static void fill(const Row *r, int head, int64_t start, int keys, int gradient, Run *run, float *at, float *scratch) {
    int d = r->head_dim;
    size_t ld = (size_t)r->kv_heads * d, size = run_room(keys, d, 0) / 2;
    const float *k = r->k + start * ld + head * d, *v = r->v + start * ld + head * d;
    *run = (Run){start, keys, up(keys, NR), at, NULL, NULL, at + size, NULL, NULL};
    for (int i = 0; i < keys; i++)
        rotate(scratch + (size_t)i * d, k + i * ld, d, r->cos + (start + i) * d, r->sin + (start + i) * d, 1);
    panels_of_rows(keys, d, scratch, d, run->k_by_key);
    panels(keys, d, v, ld, run->v_by_dim);
    if (!gradient) return;
    run->k_by_dim = at + 2 * size, run->v_by_key = at + 3 * size, run->dk = at + 4 * size, run->dv = at + 5 * size;
    panels(keys, d, scratch, d, run->k_by_dim);
    panels_of_rows(keys, d, v, ld, run->v_by_key);
    memset(run->dk, 0, sizeof(float) * 2 * size);
}

// Rotates and scales n queries of a head from `token` on, and makes their scores: over the prompt's keys, if there is
// one, then over their own run's, as far as they see. Returns the scores' row length.
static int make_scores(const Row *r, int head, int64_t token, int n, const Run *prompt, const Run *own, float *q,
                       float *s) {
    int d = r->head_dim, before = prompt ? prompt->room : 0, seen = (int)(token - own->start) + n, ld = before + up(seen, NR);
    for (int i = 0; i < n; i++)
        rotate(q + (size_t)i * d, r->q + ((token + i) * r->heads + head) * d, d, r->cos + (token + i) * d,
               r->sin + (token + i) * d, r->scale);
    if (prompt) product(n, q, d, prompt->k_by_key, d, before, NULL, NULL, s, ld);
    product(n, q, d, own->k_by_key, d, up(seen, NR), NULL, NULL, s + before, ld);
    for (int i = 0; i < n; i++) {
        for (int j = prompt ? prompt->keys : 0; j < before; j++) s[(size_t)i * ld + j] = -INFINITY;
        for (int j = seen - n + i + 1; j < up(seen, NR); j++) s[(size_t)i * ld + before + j] = -INFINITY;
    }
    return ld;
}

// y [n][wide] = x over the prompt's and the own keys, [n][ld], times what is in panels by dimension
static void over_keys(int n, const float *x, int ld, const Run *prompt, const float *shared, const Run *own,
                      const float *w, int seen, int wide, float *y) {
    int before = prompt ? prompt->room : 0;
    for (int c = 0; c < wide; c += NR) {  // panels are as deep as their run, and read as far as it is seen
        if (prompt) product(n, x, ld, shared + (size_t)c * prompt->keys, prompt->keys, NR, NULL, NULL, y + c, wide);
        product(n, x + before, ld, w + (size_t)c * own->keys, seen, NR, NULL, prompt ? y + c : NULL, y + c, wide);
    }
}

static void forward_run(const Row *r, int kv, const Run *prompt, const Run *own, float *q, float *s, float *y,
                        float *out, float *lse) {
    int d = r->head_dim, wide = up(d, NR), shared = r->heads / r->kv_heads;
    for (int a = kv * shared; a < (kv + 1) * shared; a++)
        for (int from = 0, n; from < own->keys; from += n) {
            n = own->keys - from < BLOCK ? own->keys - from : BLOCK;
            int64_t token = own->start + from;
            int ld = make_scores(r, a, token, n, prompt, own, q, s);
            for (int i = 0; i < n; i++) lse[(token + i) * r->heads + a] = softmax(s + (size_t)i * ld, ld, ld);
            over_keys(n, s, ld, prompt, prompt ? prompt->v_by_dim : NULL, own, own->v_by_dim, from + n, wide, y);
            for (int i = 0; i < n; i++)
                memcpy(out + ((token + i) * r->heads + a) * d, y + (size_t)i * wide, sizeof(float) * d);
        }
}

// With p the probabilities: dp = g vᵀ, ds = p (dp − g out), dq = ds k, dk = dsᵀ q, dv = pᵀ g.
static void backward_run(const Row *r, int kv, const Run *prompt, const Run *own, const float *g, const float *out,
                         const float *lse, float *q, float *s, float *dp, float *y, float *dq) {
    int d = r->head_dim, wide = up(d, NR), shared = r->heads / r->kv_heads, before = prompt ? prompt->room : 0;
    float *in_panels = y + (size_t)BLOCK * wide;
    for (int a = kv * shared; a < (kv + 1) * shared; a++)
        for (int from = 0, n; from < own->keys; from += n) {
            n = own->keys - from < BLOCK ? own->keys - from : BLOCK;
            int64_t token = own->start + from;
            size_t ldg = (size_t)r->heads * d, at = token * ldg + (size_t)a * d;
            int ld = make_scores(r, a, token, n, prompt, own, q, s), seen = from + n;
            if (prompt) product(n, g + at, (int)ldg, prompt->v_by_key, d, before, NULL, NULL, dp, ld);
            product(n, g + at, (int)ldg, own->v_by_key, d, up(seen, NR), NULL, NULL, dp + before, ld);
            for (int i = 0; i < n; i++) {
                float dot = 0, log_sum = lse[(token + i) * r->heads + a];
                for (int j = 0; j < d; j++) dot += g[at + i * ldg + j] * out[at + i * ldg + j];
                for (int c = i * ld; c < (i + 1) * ld; c += W) {
                    vec p = vexp(*(vec *)(s + c) - splat(log_sum));
                    *(vec *)(s + c) = p;
                    *(vec *)(dp + c) = p * (*(vec *)(dp + c) - splat(dot));
                }
            }
            panels(n, d, g + at, ldg, in_panels);
            if (prompt) add_transposed(prompt->keys, s, ld, in_panels, n, wide, prompt->dv);
            add_transposed(seen, s + before, ld, in_panels, n, wide, own->dv);
            panels(n, d, q, d, in_panels);
            if (prompt) add_transposed(prompt->keys, dp, ld, in_panels, n, wide, prompt->dk);
            add_transposed(seen, dp + before, ld, in_panels, n, wide, own->dk);
            over_keys(n, dp, ld, prompt, prompt ? prompt->k_by_dim : NULL, own, own->k_by_dim, seen, wide, y);
            for (int i = 0; i < n; i++)
                rotate_back(dq + at + i * ldg, y + (size_t)i * wide, d, r->cos + (token + i) * d,
                            r->sin + (token + i) * d, r->scale);
        }
}

static void give_back(const Row *r, int kv, const Run *run, float *dk, float *dv) {
    int d = r->head_dim, wide = up(d, NR);
    for (int i = 0; i < run->keys; i++) {
        rotate_back(dk + ((run->start + i) * r->kv_heads + kv) * d, run->dk + (size_t)i * wide, d,
                    r->cos + (run->start + i) * d, r->sin + (run->start + i) * d, 1);
        memcpy(dv + ((run->start + i) * r->kv_heads + kv) * d, run->dv + (size_t)i * wide, sizeof(float) * d);
    }
}

// One prompt and head of keys. The gradient where dq isn't NULL. Returns 0, or 1: no memory.
static int unit(const Row *r, int64_t u, int kv, float *out, float *lse, const float *g, float *dq, float *dk, float *dv) {
    int d = r->head_dim, wide = up(d, NR), P = (int)r->prompt_length[u], longest = 1, gradient = dq != NULL;
    for (int64_t i = r->first[u]; i < r->first[u + 1]; i++)
        longest = r->length[i] > longest ? (int)r->length[i] : longest;
    size_t of_prompt = run_room(P, d, gradient), of_segment = run_room(longest, d, gradient);
    size_t scores = (size_t)BLOCK * (up(P, NR) + up(longest > P ? longest : P, NR)) + NR;
    size_t rows = (size_t)(longest > P ? longest : P) + BLOCK;
    float *memory = malloc(sizeof(float) * (of_prompt + of_segment + 2 * scores + rows * d + 2 * BLOCK * (size_t)wide));
    if (!memory) return 1;
    float *own_room = memory + of_prompt, *s = own_room + of_segment, *dp = s + scores, *q = dp + scores,
          *y = q + rows * d;
    Run prompt, own;
    fill(r, kv, r->prompt_start[u], P, gradient, &prompt, memory, q);
    if (!gradient) forward_run(r, kv, NULL, &prompt, q, s, y, out, lse);
    for (int64_t i = r->first[u]; i < r->first[u + 1]; i++) {
        fill(r, kv, r->start[i], (int)r->length[i], gradient, &own, own_room, q);
        if (!gradient) {
            forward_run(r, kv, P ? &prompt : NULL, &own, q, s, y, out, lse);
        } else {
            backward_run(r, kv, P ? &prompt : NULL, &own, g, out, lse, q, s, dp, y, dq);
            give_back(r, kv, &own, dk, dv);
        }
    }
    if (gradient) {
        backward_run(r, kv, NULL, &prompt, g, out, lse, q, s, dp, y, dq);
        give_back(r, kv, &prompt, dk, dv);
    }
    free(memory);
    return 0;
}

// out as q, lse [token][heads]; g, dq as q; dk, dv as k. Returns 0, or how many units found no memory.
int attention(const Row *r, float *out, float *lse, const float *g, float *dq, float *dk, float *dv) {
    int failed = 0;
#pragma omp parallel for num_threads(team) collapse(2) schedule(dynamic) reduction(+ : failed)
    for (int64_t u = 0; u < r->prompts; u++)
        for (int kv = 0; kv < r->kv_heads; kv++) failed += unit(r, u, kv, out, lse, g, dq, dk, dv);
    return failed;
}
