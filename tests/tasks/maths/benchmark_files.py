"""Miniature files of the eight benchmarks, and of three data sets to train on, in the schemas of their data sets:
folders that `load_dataset` loads as if they were the hub's.

Columns and their types are those that the data sets' cards or their established loaders (SimpleRL-Zoo, Qwen2.5-Math,
lighteval, lm-evaluation-harness, verl) name. The problems are our own.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq

GSM8K = [
    {
        "question": "Ann has 3 bags of 4 apples. How many apples?",
        "answer": "There are 3*4=<<3*4=12>>12.\n#### 12",
    },
    {
        "question": "A book costs $1,500 and a pen $5. What do both cost?",
        "answer": "1500+5=<<1500+5=1505>>1505\n#### 1,505",
    },
]
MATH500 = [
    {
        "problem": "Convert the point $(0,3)$ to polar coordinates.",
        "solution": "We have $r = 3$, so \\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/1.json",
    },
    {
        "problem": "Expand $(x+1)^2$.",
        "solution": "\\boxed{x^2+2x+1}",
        "answer": "x^2+2x+1",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/2.json",
    },
]
MINERVA = [
    {"question": "How far does light go in 2 s, in m?", "answer": "6e8"},
    {"question": "Two?", "answer": "2"},
]
GAOKAO = [
    {"question": "The value of $1+1$ is: (A) $1$ (B) $2$", "answer": "B"},
    {"question": "Solve $2x = 6$.", "answer": "$x=3$"},
]
OLYMPIAD = [
    {"question": "Find all real $x$ with $x^2 = 4$.", "final_answer": ["$2$", "$-2$"], "is_multiple_answer": True},
    {"question": "Find $1+2$.", "final_answer": ["3"], "is_multiple_answer": False},
]
COLLEGE = [
    {
        "data_source": "college_math.Algebra",
        "question_number": "exercise.8.3.20",
        "question": "Simplify: $-\\sqrt{18}$",
        "answer": "$-3 \\sqrt{2}$",
        "license": "CC BY",
        "data_topic": "college_math.algebra",
    },
    {
        "data_source": "college_math.Algebra",
        "question_number": "exercise.8.3.21",
        "question": "Factor $x^2-1$.",
        "answer": "$(x-1)(x+1)$",
        "license": "CC BY",
        "data_topic": "college_math.algebra",
    },
]
AIME = [
    {
        "id": 60,
        "problem": "Find the remainder of $1000$ divided by $999$.",
        "solution": "\\boxed{001}",
        "answer": "001",
        "url": "https://example.org",
        "year": "2024",
    },
    {
        "id": 61,
        "problem": "Find $20^2 - 2$.",
        "solution": "398",
        "answer": "398",
        "url": "https://example.org",
        "year": "2024",
    },
]
AIME_OTHER = [
    {"ID": "2024-I-1", "Problem": "Find $200+4$.", "Solution": "204", "Answer": 204},
    {"ID": "2024-I-2", "Problem": "Find $20+5$.", "Solution": "25", "Answer": 25},
]
AMC = [
    {"id": 0, "question": "At what distance do they meet?", "answer": "27.0", "url": "https://example.org"},
    {"id": 1, "question": "How many digits has $10^{17}$?", "answer": "18.0", "url": "https://example.org"},
]
HOTHAN = [
    {
        "id": 1606,
        "question": "Find $1+1$.",
        "solution": ["Add."],
        "final_answer": ["2"],
        "context": None,
        "modality": "Text-only",
        "difficulty": "Competition",
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        "question_type": "Open-ended",
        "subfield": "Algebra",
        "subject": "Math",
        "language": "English",
    },
    {
        "id": 1607,
        "question": "Find $2+1$.",
        "solution": ["Add."],
        "final_answer": ["3"],
        "context": None,
        "modality": "Text-only",
        "difficulty": "Competition",
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        "question_type": "Open-ended",
        "subfield": "Algebra",
        "subject": "Math",
        "language": "English",
    },
]

MATH = [
    {
        "problem": "What is $2^3$?", "level": "Level 1", "type": "Algebra", "solution": "$2^3 = \\boxed{8}$.",
        "answer": "8", "unique_id": "train/algebra/1.json",
    },
    {
        "problem": "What is half of $9$?", "level": "Level 2", "type": "Algebra", "solution": "\\boxed{\\frac{9}{2}}",
        "answer": "", "unique_id": "train/algebra/2.json",
    },
]  # fmt: skip


def dapo_row(question, answer, index):
    """As DAPO-Math-17k has it: the problem inside its instructions, as a message."""
    content = (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        f"$Answer (without quotes) where $Answer is the answer to the problem.\n\n{question}\n\nRemember to put your "
        'answer on its own line after "Answer:".'
    )
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": content, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


DAPO = [
    dapo_row("Find $3 + 4$.", "7", "a"),
    dapo_row("Solve $x + 1 = 3$ for $x$.", "2", "b"),
    dapo_row("Which is it?", "1", "c"),
    dapo_row("Which is it?", "2", "d"),
]

# data set: (config, split, file type, rows); the benchmarks'
DATA_SETS = {
    "openai/gsm8k": ("main", "test", "parquet", GSM8K),
    "HuggingFaceH4/MATH-500": ("default", "test", "jsonl", MATH500),
    "math-ai/minervamath": ("default", "test", "jsonl", MINERVA),
    "MARIO-Math-Reasoning/Gaokao2023-Math-En": ("default", "train", "jsonl", GAOKAO),
    "math-ai/olympiadbench": ("default", "test", "jsonl", OLYMPIAD),
    "Hothan/OlympiadBench": ("OE_TO_maths_en_COMP", "train", "parquet", HOTHAN),
    "di-zhang-fdu/College_Math_Test": ("default", "test", "jsonl", COLLEGE),
    "HuggingFaceH4/aime_2024": ("default", "train", "parquet", AIME),
    "Maxwell-Jia/AIME_2024": ("default", "train", "parquet", AIME_OTHER),
    "math-ai/amc23": ("default", "test", "parquet", AMC),
}  # fmt: skip

# the same of those to train on
TRAINING_DATA_SETS = {
    "openai/gsm8k": ("main", "train", "parquet", GSM8K),
    "rasbt/math_full_minus_math500": ("default", "train", "parquet", MATH),
    "BytedTsinghua-SIA/DAPO-Math-17k": ("default", "train", "parquet", DAPO),
}


def write_data_set(root, name, count, *, split=None, rows=None, data_sets=DATA_SETS):
    """A data set as a folder, its rows (or others) repeated up to `count`."""
    config, own, kind, its_rows = data_sets[name]
    split, rows = split or own, rows or its_rows
    folder = root / name
    (folder / config).mkdir(parents=True)
    file = f"{config}/{split}-00000-of-00001.{kind}"
    rows = [rows[i % len(rows)] for i in range(count)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / file)
    else:
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {file}\n---\n"
    )
