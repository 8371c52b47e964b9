"""`lambda-grpo doctor`: checks of the installation, with fixes."""
