"""The imports of every run, done once: `parallel.run_all` forks its processes from one that has imported this."""

import gc

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import lambda_grpo.training.run  # noqa: F401

get_checkpoint_conversion_mapping("qwen2")  # builds a table of a thousand regular expressions, for any model
gc.collect()
gc.freeze()  # so that no process scans the existing objects again
