"""Parts of user-defined objectives, as a user writes them."""

from lambda_grpo.objective import GeometricMean, Preference, Surrogate


class ByEntropy(Preference):
    """f_it = the token's entropy."""

    needs = ("entropies",)
    per_token = True

    def __call__(self, groups, lambda_):
        return groups.entropies.double()


class ByMeanEntropy(Preference):
    """f_i = the mean over the padded tokens."""

    needs = ("entropies",)

    def __call__(self, groups, lambda_):
        return groups.entropies.double().mean(-1)


class Negative(Preference):
    """f = 1 − |o|: an engine can't fold it into advantages."""

    def __call__(self, groups, lambda_):
        return 1 - groups.lengths


class Undeclared(ByEntropy):
    """It doesn't say that it weighs tokens."""

    per_token = False


class UndeclaredMean(Surrogate):
    """It doesn't say that it has one value a response."""

    def __call__(self, inputs):
        return GeometricMean()(inputs)
