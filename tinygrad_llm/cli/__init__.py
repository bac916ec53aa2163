"""The commands of ``tinygrad-llm``, a thin file each."""
