"""`lambda-grpo doctor`: what is installed here, whether it works, and what to do where it doesn't."""
