r"""Symbolic equality of two expressions, by math-verify with corrections.

math-verify (0.9) calls some expressions equal that aren't, so these conditions are added:

- numbers have to agree relative to their size (math-verify rounds to six decimals, so all small numbers are 0);
- an equation between numbers has to hold (it takes 5 = 6 for 6);
- symbols are case-sensitive (it takes S_n for s_n).

It misses some that are equal, which are checked here: an equation and its multiple, a column vector and the list of its
entries, exact numbers that SymPy can't simplify, and roots and logarithms that are equal for positive variables, as
exercises on them assume (√a·√b is √(ab), but √(x²) isn't x).
"""

from __future__ import annotations

import random

import sympy
from math_verify import verify
from sympy import Basic, Eq, Expr, MatrixBase, preorder_traversal

RELATIVE_TOLERANCE = sympy.Float(1e-5)
DIGITS = 30  # precision with which exact numbers are evaluated
MAX_VALUE = 10**6  # larger values aren't compared by their digits: a difference of 1 might be in the last ones
POINTS = 4  # how many points expressions of positive variables are evaluated at


def symbolically_equal(answer: Basic | MatrixBase, reference: Basic | MatrixBase) -> bool:
    """Whether the two are equal. May take long, and raises whatever SymPy raises on nonsense."""
    if not _holds(answer):
        return False
    if isinstance(answer, sympy.Symbol) and isinstance(reference, sympy.Symbol):
        return bool(answer.name == reference.name)
    if isinstance(answer, Eq) and isinstance(reference, Eq):
        return _same_equations(answer, reference)
    if verify(reference, answer, allow_set_relation_comp=True, timeout_seconds=None):
        return _agree_in_size(answer, reference)
    return _same_entries(answer, reference) or _same_values(answer, reference)


def numeric_value(expression: Basic | MatrixBase) -> Expr | None:
    """The value of a number; None for anything else, and for what SymPy fails to evaluate."""
    if not (isinstance(expression, Expr) and expression.is_number):
        return None
    try:
        found = expression.doit().evalf()
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return None
    return found if found.is_number and found.is_finite else None


def _same_values(answer: Basic | MatrixBase, reference: Basic | MatrixBase) -> bool:
    """Whether exact numbers, or expressions of positive variables with roots or logarithms, are equal."""
    if not (isinstance(answer, Expr) and isinstance(reference, Expr)) or (answer.is_Atom and reference.is_Atom):
        return False
    answer, reference = (_without_assumptions(one) for one in (answer, reference))
    if answer.has(sympy.Float) or reference.has(sympy.Float):
        return False
    if not any(has(answer) and has(reference) for has in (_has_roots, _has_logarithms, _is_complex, _is_number)):
        return False
    symbols = sorted(answer.free_symbols | reference.free_symbols, key=str)
    if answer.free_symbols != reference.free_symbols or answer.has(sympy.core.function.AppliedUndef):
        return False
    rng = random.Random(7)
    for _ in range(POINTS if symbols else 1):
        point = {symbol: sympy.Rational(rng.randint(3, 60), rng.choice((7, 11, 13))) for symbol in symbols}
        a, b = (one.doit().evalf(DIGITS, subs=point) for one in (answer, reference))
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            return False
        if not abs(a).is_comparable or abs(a) > MAX_VALUE:
            return False
        difference = abs(a - b)
        if not difference.is_comparable or difference > sympy.Float(10) ** (8 - DIGITS) * (abs(a) + abs(b)):
            return False
    return True


def _without_assumptions(expression: Expr) -> Expr:
    """The expression with symbols without assumptions, i as the imaginary unit, and decimal exponents as fractions."""
    exponents = {node.exp for node in expression.atoms(sympy.Pow) if isinstance(node.exp, sympy.Float)}
    exact = expression.subs({exponent: sympy.Rational(str(exponent)) for exponent in exponents})
    names = {symbol: sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name) for symbol in exact.free_symbols}
    return exact.subs(names)


def _has_roots(expression: Expr) -> bool:
    return any(isinstance(node, sympy.Pow) and node.exp.is_Rational and not node.exp.is_Integer
               for node in preorder_traversal(expression))  # fmt: skip


def _has_logarithms(expression: Expr) -> bool:
    return bool(expression.has(sympy.log))


def _is_complex(expression: Expr) -> bool:
    return bool(expression.has(sympy.I))


def _is_number(expression: Expr) -> bool:
    return bool(expression.is_number)


def _same_entries(answer: Basic | MatrixBase, reference: Basic | MatrixBase) -> bool:
    """Whether one is a column or row vector, and the other one lists its entries in order."""
    for vector, listed in ((_vector(answer), reference), (_vector(reference), answer)):
        if isinstance(vector, MatrixBase) and 1 in vector.shape and not isinstance(listed, MatrixBase):
            if isinstance(listed, sympy.Interval) and listed.left_open and listed.right_open:
                listed = sympy.Tuple(listed.start, listed.end)
            if isinstance(listed, sympy.Tuple) and len(listed) == len(vector) > 1:
                return all(symbolically_equal(a, b) for a, b in zip(vector, listed, strict=True))
    return False


def _vector(expression: Basic | MatrixBase) -> Basic | MatrixBase:
    """A linear combination of the unit vectors i, j and k as a column vector; anything else unchanged."""
    if not isinstance(expression, Expr) or "j" not in {symbol.name for symbol in expression.free_symbols}:
        return expression
    basis = [symbol for name in "ijk" for symbol in expression.free_symbols if symbol.name == name]
    entries = [expression.doit().expand().coeff(symbol) for symbol in basis]
    rest = expression - sum(entry * symbol for entry, symbol in zip(entries, basis, strict=True))
    return sympy.Matrix(entries) if sympy.expand(rest.doit()) == 0 else expression


def _holds(expression: Basic | MatrixBase) -> bool:
    """Whether all equations between numbers in the expression are true."""
    if isinstance(expression, MatrixBase):
        return True
    equations = [node for node in preorder_traversal(expression) if isinstance(node, Eq)]
    return all(_agree(numeric_value(one.lhs), numeric_value(one.rhs)) for one in equations)


def _same_equations(answer: Eq, reference: Eq) -> bool:
    """Whether they have the same sides or the same solutions; math-verify accepts all equations that it can't solve."""
    if answer.lhs == reference.lhs and isinstance(answer.lhs, (sympy.Symbol, sympy.core.function.AppliedUndef)):
        return symbolically_equal(answer.rhs, reference.rhs)
    if _is_multiple(answer, reference):
        return True
    if not verify(reference, answer, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return _agree_in_size(answer, reference) and (answer == reference or bool(sympy.solve(reference)))


def _is_multiple(answer: Eq, reference: Eq) -> bool:
    """Whether one equation is a multiple of the other one: 2x = 4 is x = 2."""
    left, right = answer.lhs - answer.rhs, reference.lhs - reference.rhs
    if not left.free_symbols or left.free_symbols != right.free_symbols:
        return False
    ratio = sympy.simplify(left / right)
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)


def _agree_in_size(answer: Basic | MatrixBase, reference: Basic | MatrixBase) -> bool:
    """Whether two numbers, or the right-hand sides of two equations, agree relative to their size."""
    if isinstance(answer, Eq) and isinstance(reference, Eq) and answer.lhs != reference.lhs:
        return True
    return _agree(*(numeric_value(one.rhs if isinstance(one, Eq) else one) for one in (answer, reference)))


def _agree(a: Expr | None, b: Expr | None) -> bool:
    if a is None or b is None:
        return True
    difference, largest = abs(a - b), sympy.Max(abs(a), abs(b))
    return (
        bool(difference <= RELATIVE_TOLERANCE * largest) if difference.is_comparable and largest.is_comparable else True
    )
