"""Small random models of transformers with the latents of the real ones. Nothing is downloaded."""

from __future__ import annotations

import torch

SIZES = {"vocab_size": 211, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.15}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}
DEEPSEEK = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
GROUPS = {"n_group": 2, "topk_group": 1}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 64,
}


def heads(number):
    return {"num_attention_heads": number, "num_key_value_heads": number}


KIMI_K2 = SIZES | EXPERTS | DEEPSEEK | heads(8) | {
    "q_lora_rank": 48, "first_k_dense_replace": 1, "num_mtp_layers": 0, "n_group": 1, "topk_group": 1,
    "rope_parameters": YARN | {"factor": 32.0, "beta_fast": 1}, "max_position_embeddings": 2048,
}  # fmt: skip
SEEING = {
    "vision_config": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2},
    "projection_hidden_size": 32, "image_token_id": 200, "video_token_id": 201,
    "vision_start_token_id": 202, "vision_end_token_id": 203,
}  # fmt: skip

# name: configuration class, causal model class, what differs from the class's defaults.
MODELS = {
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", SIZES | EXPERTS | DEEPSEEK | GROUPS | heads(16)
                    | {"q_lora_rank": 48, "first_k_dense_replace": 1, "num_mtp_layers": 0}),
    "deepseek_v3_yarn": ("DeepseekV3Config", "DeepseekV3ForCausalLM", SIZES | EXPERTS | DEEPSEEK | GROUPS | heads(16)
                         | {"q_lora_rank": 48, "first_k_dense_replace": 1, "num_mtp_layers": 0,
                            "rope_parameters": YARN, "max_position_embeddings": 2560}),
    "deepseek_v2": ("DeepseekV2Config", "DeepseekV2ForCausalLM", SIZES | EXPERTS | DEEPSEEK | heads(16)
                    | {"q_lora_rank": 48, "first_k_dense_replace": 1, "rope_parameters": YARN,
                       "max_position_embeddings": 2560}),
    "deepseek_v2_lite": ("DeepseekV2Config", "DeepseekV2ForCausalLM", SIZES | EXPERTS | DEEPSEEK | heads(16)
                         | {"q_lora_rank": None, "first_k_dense_replace": 1, "topk_method": "greedy"}),
    "kimi_k2": ("DeepseekV3Config", "DeepseekV3ForCausalLM", KIMI_K2),
    "kimi_k25": ("Kimi_K25Config", "Kimi_K25ForConditionalGeneration",
                 SEEING | {"text_config": {"model_type": "deepseek_v3"} | KIMI_K2}),
    "glm4_moe_lite": ("Glm4MoeLiteConfig", "Glm4MoeLiteForCausalLM", SIZES | EXPERTS | GROUPS | heads(20)
                      | {"q_lora_rank": 48, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 192,
                         "v_head_dim": 256, "mlp_layer_types": ["dense", "sparse"]}),
    "minicpm3": ("MiniCPM3Config", "MiniCPM3ForCausalLM", SIZES | heads(40)
                 | {"hidden_size": 80, "q_lora_rank": 48, "kv_lora_rank": 256, "qk_rope_head_dim": 32,
                    "qk_nope_head_dim": 64, "v_head_dim": 64}),
    "mistral4": ("Mistral4Config", "Mistral4ForCausalLM", SIZES | EXPERTS | GROUPS | heads(8)
                 | {"q_lora_rank": 48, "kv_lora_rank": 256, "qk_rope_head_dim": 64, "qk_nope_head_dim": 64,
                    "v_head_dim": 128, "first_k_dense_replace": 1}),
    "longcat_flash": ("LongcatFlashConfig", "LongcatFlashForCausalLM", SIZES | DEEPSEEK | heads(8)
                      | {"q_lora_rank": 48, "num_layers": 1, "ffn_hidden_size": 96, "expert_ffn_hidden_size": 32,
                         "n_routed_experts": 4, "moe_topk": 2, "zero_expert_num": 1}),
    "youtu": ("YoutuConfig", "YoutuForCausalLM", SIZES | DEEPSEEK | heads(16) | {"q_lora_rank": 48}),
    "axk1": ("AXK1Config", "AXK1ForCausalLM", SIZES | EXPERTS | DEEPSEEK | GROUPS | heads(8)
             | {"q_lora_rank": 48, "first_k_dense_replace": 1}),
    "sarvam_mla": ("SarvamMLAConfig", "DeepseekV3ForCausalLM", SIZES | EXPERTS | DEEPSEEK | heads(8)
                   | {"q_lora_rank": None}),
}  # fmt: skip


def make(name, dtype=torch.float32, device="cpu", **changes):
    """A model with large random weights, so that what attention says shows in its logits."""
    import transformers

    config_class, model_class, differing = MODELS[name]
    torch.manual_seed(1)
    config = getattr(transformers, config_class)(**differing | changes)
    model = getattr(transformers, model_class)._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().to(device, dtype)


def token_ids(model, count, seed):
    return torch.randint(
        model.config.get_text_config().vocab_size, (count,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def eager_logits(model, tokens):
    """What the model itself says behind each token of one sequence."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0]
