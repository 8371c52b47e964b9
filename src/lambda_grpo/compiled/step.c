// One decoding step of a Llama-like model in float32: a new token's embedding for each row in, logits out.
//
// Rows are independent, so threads take a range of them through all layers without waiting for each other. Matrices
// come in panels of NR columns, [columns / NR][depth][NR], so that one kernel multiplies by weights and by the prompts'
// keys and values alike: the rows of a group read their prompt's together.

#include "vectors.h"

int vector_width(void) { return W; }

typedef struct {  // of one layer; matrices in panels, biases as int64_t as their panels or NULL
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

static inline void rms_norm(int rows, int size, const float *x, int ldx, const float *weight, float epsilon, float *y,
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

// Attention of a run of rows that share a prompt: `q` [rows][ldq] (rotated and scaled), out [rows][heads * head_dim].
static void attend(const Model *m, int layer, int rows, const float *q, int ldq, const int64_t *slot, int64_t prompt,
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

// Rows `from` .. `to` of a step.
static int some_rows(const Model *m, int from, int to, const float *x, const int64_t *slot, const int64_t *prompt,
                     const int64_t *lengths, int t, float *logits) {
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
            for (int a = 0; a < m->heads + m->kv_heads; a++)
                rotate(z + a * hd, z + a * hd, hd, cos, sin, a < m->heads ? m->scale : 1);
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
