// The softmax of a language model's head, some columns of the vocabulary at a time: statistics of each row of logits,
// and the gradient of log-probabilities and entropies.

#include "vectors.h"

// Statistics of a row over the columns seen so far, with z the logits over the temperature: max z, sum e^(z - max),
// sum (z - max) e^(z - max), and z of the row's label.
typedef struct {
    float top, sum, weighted, label;
} Statistics;

static inline vec part_of_row(const float *x, int columns, int c, float beyond) {
    if (c + W <= columns) return *(const vec *)(x + c);
    vec v = splat(beyond);
    for (int j = 0; c + j < columns; j++) v[j] = x[c + j];
    return v;
}

// Adds columns `start` .. `start` + `columns` - 1 of the logits [rows][columns] to the statistics [rows].
void lgrpo_head_statistics(int64_t rows, int columns, const float *logits, int64_t start, const int64_t *labels,
                           float inverse_temperature, Statistics *statistics) {
#pragma omp parallel for num_threads(lgrpo_threads)
    for (int64_t i = 0; i < rows; i++) {
        const float *x = logits + i * columns;
        Statistics *s = statistics + i;
        vec tops = splat(-INFINITY);
        for (int c = 0; c < columns; c += W) {
            vec v = part_of_row(x, columns, c, -INFINITY);
            ivec above = v > tops;
            tops = (vec)(((ivec)v & above) | ((ivec)tops & ~above));
        }
        float top = s->top;
        for (int j = 0; j < W; j++) top = tops[j] * inverse_temperature > top ? tops[j] * inverse_temperature : top;
        vec sums = splat(0), weighted = splat(0);
        for (int c = 0; c < columns; c += W) {
            vec d = part_of_row(x, columns, c, -1e30f) * splat(inverse_temperature) - splat(top), e = vexp(d);
            sums += e;
            weighted += e * d;
        }
        if (s->sum > 0) {  // what was seen before, relative to the new maximum
            float d = s->top - top, e = expf(d);
            s->weighted = e * (s->weighted + d * s->sum);
            s->sum *= e;
        }
        s->top = top;
        s->sum += total(sums);
        s->weighted += total(weighted);
        if (labels[i] >= start && labels[i] < start + columns) s->label = x[labels[i] - start] * inverse_temperature;
    }
}

// Replaces the logits by the gradient of sum g log p[label] + h H, where H is the entropy and g, h [rows] its weights;
// h may be NULL. log_z [rows]: log sum e^z.
void lgrpo_head_gradient(int64_t rows, int columns, float *logits, int64_t start, const int64_t *labels,
                         float inverse_temperature, const float *log_z, const float *entropy, const float *g,
                         const float *h) {
#pragma omp parallel for num_threads(lgrpo_threads)
    for (int64_t i = 0; i < rows; i++) {
        float *x = logits + i * columns, bonus = h ? h[i] : 0, mean = entropy[i];
        for (int c = 0; c < columns; c += W) {
            vec log_p = part_of_row(x, columns, c, 0) * splat(inverse_temperature) - splat(log_z[i]);
            vec d = -vexp(log_p) * splat(inverse_temperature) * (splat(g[i]) + splat(bonus) * (log_p + splat(mean)));
            if (c + W <= columns) *(vec *)(x + c) = d;
            else
                for (int j = 0; c + j < columns; j++) x[c + j] = d[j];
        }
        if (labels[i] >= start && labels[i] < start + columns) x[labels[i] - start] += g[i] * inverse_temperature;
    }
}
