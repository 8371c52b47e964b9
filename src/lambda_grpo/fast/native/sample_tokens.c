// Sampling a token from each row of logits, with its log-probability and the distribution's entropy.

#include "vectors.h"

// W logits from token c on, -infinity beyond the vocabulary
static inline vec logits_at(const float *x, int vocabulary, int c) {
    if (c + W <= vocabulary) return *(const vec *)(x + c);
    vec v = splat(-INFINITY);
    for (int j = 0; c + j < vocabulary; j++) v[j] = x[c + j];
    return v;
}

// Inverse transform sampling: the first token at which the running sum of exponentials reaches `target`; never one
// whose exponential is 0.
static int64_t token_at(const float *x, int vocabulary, float top, double target) {
    double sum = 0;
    int last = 0, is_reached = 0;  // last: where the last vector with a positive exponential begins
    for (int c = 0; c < vocabulary; c += W) {
        vec e = vexp(logits_at(x, vocabulary, c) - splat(top));
        double next = sum + total(e);
        if (next > sum) last = c;
        if ((is_reached = next >= target)) break;
        sum = next;
    }
    if (!is_reached) sum = -INFINITY;  // rounding kept the sum just below the target: take the last possible token
    vec e = vexp(logits_at(x, vocabulary, last) - splat(top));
    int token = 0;
    for (int j = 0; j < W; j++)
        if (e[j] > 0) {
            token = last + j;
            if ((sum += e[j]) >= target) break;
        }
    return token;
}

// logits [n][ld], `vocabulary` of them in each row; u [n] in (0, 1], or NULL for the likeliest tokens; entropies in
// nats. Returns how many rows have no distribution: NaN, or -infinity everywhere.
int lgrpo_sample_tokens(int64_t n, int vocabulary, int64_t ld, const float *logits, const double *u, int64_t *tokens,
                        float *logprobs, float *entropies) {
    int broken = 0;
#pragma omp parallel for num_threads(lgrpo_threads) reduction(+ : broken)
    for (int64_t i = 0; i < n; i++) {
        const float *x = logits + i * ld;
        int64_t best = 0;
        for (int j = 1; j < vocabulary; j++)
            if (x[j] > x[best]) best = j;
        double sum = 0, weighted = 0;  // of e^d and of d e^d, where d = x - max x
        for (int c = 0; c < vocabulary; c += W) {
            vec d = logits_at(x, vocabulary, c) - splat(x[best]), e = vexp(d);
            ivec is_excluded = d < splat(-1e30f);  // 0 times -infinity has to be 0
            sum += total(e);
            weighted += total(e * (vec)(((ivec)d & ~is_excluded)));
        }
        if (!(sum >= 1 && sum <= vocabulary)) {  // the greatest logit alone contributes 1
            broken++;
            continue;
        }
        tokens[i] = u ? token_at(x, vocabulary, x[best], u[i] * sum) : best;
        logprobs[i] = x[tokens[i]] - x[best] - log(sum);
        entropies[i] = log(sum) - weighted / sum;
    }
    return broken;
}
