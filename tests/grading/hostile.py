"""72 completions that make graders hang, crash or accept a wrong answer, as models write and issue trackers report."""

REFERENCES = ["5", "42", "x^2+1", "(1,2)", r"\frac{1}{2}", r"\sqrt{2}", "10^{100}", "x=3"]

TOWERS = [
    *(rf"\boxed{{9^{{9^{{9^{{{n}}}}}}}}}" for n in range(2, 10)),
    r"\boxed{10^{10^{8}}}", r"\boxed{(1+x)^{100000}}", r"\boxed{(1+x+y)^{500}}", r"\boxed{9^{99999999}}",
    r"\boxed{2^{2^{2^{2^{2^2}}}}}", r"\boxed{e^{e^{e^{e^{e^{e}}}}}}", r"\boxed{(10^{10})^{(10^{10})}}",
    r"\boxed{x^{x^{x^{x^{x^{x}}}}}}", r"\boxed{(a+b+c+d+e)^{20}}", r"\boxed{(2+\sqrt{3})^{9000}}",
    r"\boxed{\sin(10^{10^{10}})}", r"\boxed{\log_{2}(9^{9^{9}})}", r"\boxed{\lfloor 9^{9^{9^9}} \rfloor}",
    r"\boxed{1e999999999}",
]  # fmt: skip
FUNCTIONS = [
    r"\boxed{100000!}", r"\boxed{10^{9}!}", r"\boxed{((100!)!)!}", r"\boxed{\binom{10^9}{5\cdot 10^8}}",
    r"\boxed{\sum_{n=1}^{10^{10}} n^n}", r"\boxed{\prod_{k=1}^{10^9} k}", r"\boxed{\Gamma(10^{9})}",
    r"\boxed{\int_0^{\infty} e^{-x^x} \sin(x^x) dx}", r"\boxed{\lim_{x \to \infty} x^{x^{x^x}}}",
    r"\boxed{\frac{d^{100}}{dx^{100}} \sin(x^{10})}", r"\boxed{\gcd(10^{100000}, 7^{100000})}",
    r"\boxed{10^{10000} \mod 7^{9999}}", r"\boxed{x^7+3x^5+e^{x}=\sin(x)}",
]  # fmt: skip
NESTED = [
    r"\boxed{" + "{" * 5000 + "1" + "}" * 5000 + "}", r"\boxed{" + "(" * 5000 + "1" + ")" * 5000 + "}",
    r"\boxed{" * 5000 + "1" + "}" * 5000, "{" * 5000, "(1+" * 100_000,
    r"\boxed{" + r"\frac{1}{" * 5000 + "2" + "}" * 5000 + "}", r"\boxed{" + r"\sqrt{" * 3000 + "2" + "}" * 3000 + "}",
    r"\boxed{\det\begin{pmatrix}"
    + r"\\".join("&".join(f"x_{{{10 * i + j}}}" for j in range(9)) for i in range(9)) + r"\end{pmatrix}}",
]  # fmt: skip
LONG = [
    "9" * 10**6, r"\boxed{" + "9" * 10**6 + "}", "#### " + "9" * 10**6, "The answer is " + "9" * 10**6,
    r"\boxed{0." + "3" * 10**6 + "}", "1," * 500_000, "$" * 10**6, "answer is " * 10**5, "\\boxed{\n" * 10**5,
    r"\boxed" * 10**5, "1+" * 500_000, "=" * 10**6, r"\frac{1}{2}" * 10**5 + "3", "\\[" * 300_000,
    r"\boxed{\{" + ",".join(map(str, range(3000))) + r"\}}", r"\boxed{" + "(x+y)" * 150 + "}",
    r"\boxed{" + "+".join(f"x_{{{i}}}" for i in range(150)) + "}",
]  # fmt: skip
CONTROL = [
    "\\boxed{\x00\x01\x02}", "\\boxed{5\x00}", "\x00" * 1000, "\\boxed{4\x082}", "\x1b[31m\\boxed{\x1b}",
    "\\boxed{\ud83d}", "\u202e\\boxed{24}", "\ufeff" * 1000, "\r\n" * 100_000,
    "\\boxed{\x7f}", "#### \x005", "\\boxed{\x0b}",
]  # fmt: skip
HOSTILE = [*TOWERS, *FUNCTIONS, *NESTED, *LONG, *CONTROL]
