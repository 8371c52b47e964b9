// Drawing a token for each row from its logits, with its log-probability and the distribution's entropy.

#include "vectors.h"

// W logits from place c on, -infinity behind the last
static inline vec logits_at(const float *x, int vocabulary, int c) {
    if (c + W <= vocabulary) return *(const vec *)(x + c);
    vec v = splat(-INFINITY);
    for (int j = 0; c + j < vocabulary; j++) v[j] = x[c + j];
    return v;
}

// The first token whose sum of exponentials, with those before it, reaches `target`; never one that has none.
static int64_t reach(const float *x, int vocabulary, float top, double target) {
    double sum = 0;
    int last = 0, is_reached = 0;  // last: place of the last vector with anything in it
    for (int c = 0; c < vocabulary; c += W) {
        vec e = vexp(logits_at(x, vocabulary, c) - splat(top));
        double next = sum + total(e);
        if (next > sum) last = c;
        if ((is_reached = next >= target)) break;
        sum = next;
    }
    if (!is_reached) sum = -INFINITY;  // rounding kept it just below: the last token that there can be
    vec e = vexp(logits_at(x, vocabulary, last) - splat(top));
    int token = 0;
    for (int j = 0; j < W; j++)
        if (e[j] > 0) {
            token = last + j;
            if ((sum += e[j]) >= target) break;
        }
    return token;
}

// logits [n][ld], of which `vocabulary` count; u [n] in (0, 1], or NULL for the likeliest tokens; entropies in nats.
// Returns for how many rows there is no distribution: NaN, or nothing but -infinity.
int choose(int64_t n, int vocabulary, int64_t ld, const float *logits, const double *u, int64_t *tokens, float *logprobs,
           float *entropies) {
    int broken = 0;
#pragma omp parallel for num_threads(team) reduction(+ : broken)
    for (int64_t i = 0; i < n; i++) {
        const float *x = logits + i * ld;
        int64_t best = 0;
        for (int j = 1; j < vocabulary; j++)
            if (x[j] > x[best]) best = j;
        double sum = 0, weighted = 0;  // of e^d and of d e^d, d = x - the greatest
        for (int c = 0; c < vocabulary; c += W) {
            vec d = logits_at(x, vocabulary, c) - splat(x[best]), e = vexp(d);
            ivec is_out = d < splat(-1e30f);  // 0 times -infinity is to be 0
            sum += total(e);
            weighted += total(e * (vec)(((ivec)d & ~is_out)));
        }
        if (!(sum >= 1 && sum <= vocabulary)) {  // the greatest one alone gives 1
            broken++;
            continue;
        }
        tokens[i] = u ? reach(x, vocabulary, x[best], u[i] * sum) : best;
        logprobs[i] = x[tokens[i]] - x[best] - log(sum);
        entropies[i] = log(sum) - weighted / sum;
    }
    return broken;
}
