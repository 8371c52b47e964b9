import os

# Before DeepSpeed and Ray are imported, here and by what the tests start.
os.environ.update(DS_ACCELERATOR="cpu", RAY_USAGE_STATS_ENABLED="0")
