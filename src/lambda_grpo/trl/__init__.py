"""Any objective of the family in TRL's GRPO trainer."""

from lambda_grpo.trl.config import LambdaGRPOConfig
from lambda_grpo.trl.trainer import LambdaGRPOTrainer

__all__ = ["LambdaGRPOConfig", "LambdaGRPOTrainer"]
