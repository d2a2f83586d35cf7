"""Attention layers of models over paged caches. Nothing else of the package imports these modules.

flashmla.integrations.torch         a layer for PyTorch, made of the weights of a checkpoint
flashmla.integrations.transformers  models of Hugging Face transformers, as they are
"""
