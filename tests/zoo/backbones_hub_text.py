"""The backbone families of keras_hub that read text, tiny and with random weights."""

from tests.zoo.backbones_hub import DECODER, TEXT, VOCABULARY, models
from tests.zoo.families import registry, without

FAMILIES, family = registry("keras_hub")
LINEAR_ATTENTION = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 3,
    "linear_conv_kernel_dim": 3,
}
GEMMA3N = {
    "text_vocab_size": VOCABULARY,
    "text_hidden_size": 8,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": [12, 12],
    "hidden_activation": "gelu_approximate",
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 3,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 3,
    "altup_num_inputs": 2,
    "laurel_rank": 2,
}
T5GEMMA = {
    "vocabulary_size": VOCABULARY,
    **{
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "hidden_dim": 8,
            "intermediate_dim": 12,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        }.items()
    },
    "sliding_window": 3,
    "query_pre_attn_scalar": 4.0,
    "attn_logit_softcapping": 5.0,
}


@family
def bert():
    return models().BertBackbone(**TEXT, max_sequence_length=8)


@family
def gpt2():
    return models().GPT2Backbone(**TEXT, max_sequence_length=8)


@family
def llama():
    return models().LlamaBackbone(**DECODER)


@family
def gemma():
    return models().GemmaBackbone(**DECODER, head_dim=4)


@family
def qwen3_moe():
    return models().Qwen3MoeBackbone(
        **DECODER, head_dim=4, moe_intermediate_dim=6, num_experts=3, top_k=2
    )


@family
def deberta_v3():
    return models().DebertaV3Backbone(**TEXT, max_sequence_length=8, bucket_size=4)


@family
def fnet():
    text = without(TEXT, "num_heads")
    return models().FNetBackbone(**text, max_sequence_length=8)


@family
def t5():
    return models().T5Backbone(**TEXT)


@family
def albert():
    return models().AlbertBackbone(**TEXT, embedding_dim=6, max_sequence_length=8)


@family
def bart():
    return models().BartBackbone(**TEXT, max_sequence_length=8)


@family
def bloom():
    return models().BloomBackbone(**TEXT)


@family
def distil_bert():
    return models().DistilBertBackbone(**TEXT, max_sequence_length=8)


@family
def ed_rec():
    return models().EdRecBackbone(
        vocab_size=VOCABULARY,
        num_layers_enc=1,
        num_layers_dec=1,
        num_heads=2,
        hidden_dim=12,  # at 8 the weights drawn lose two digits, in the loop as well
        intermediate_dim=12,
    )


@family
def electra():
    text = without(TEXT, "vocabulary_size")
    return models().ElectraBackbone(
        **text, vocab_size=VOCABULARY, embedding_dim=6, max_sequence_length=8
    )


@family
def esm():
    return models().ESMBackbone(**TEXT, max_sequence_length=8)


@family
def esm_absolute():
    return models().ESMBackbone(
        **TEXT,
        max_sequence_length=8,
        use_pre_layer_norm=True,
        position_embedding_type="absolute",
    )


@family
def falcon():
    text = without(TEXT, "num_heads")
    return models().FalconBackbone(**text, num_attention_heads=2)


@family
def gemma3():
    return models().Gemma3Backbone(
        **DECODER,
        head_dim=4,
        image_size=None,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        use_sliding_window_attention=True,
        sliding_window_size=3,
        attention_logit_soft_cap=5.0,
    )


@family
def gemma3n():
    return models().Gemma3nBackbone(**GEMMA3N)


@family
def gemma4():
    return models().Gemma4Backbone(
        **DECODER,
        head_dim=4,
        image_size=None,
        sliding_window_size=3,
        sliding_window_pattern=2,
        hidden_size_per_layer_input=3,
    )


@family
def gemma4_experts():
    return models().Gemma4Backbone(
        **DECODER,
        head_dim=4,
        image_size=None,
        num_global_key_value_heads=1,
        global_head_dim=8,
        sliding_window_pattern=2,
        enable_moe_block=True,
        num_experts=3,
        expert_intermediate_dim=6,
        num_experts_per_token=2,
    )


@family
def gpt_neo_x():
    return models().GPTNeoXBackbone(**TEXT, rotary_percentage=0.5, max_sequence_length=8)


@family
def gpt_oss():
    return models().GptOssBackbone(**DECODER, num_experts=3, top_k=2, sliding_window=3)


@family
def llama3():
    return models().Llama3Backbone(
        **DECODER,
        rope_frequency_adjustment_factor=8.0,
        rope_low_freq_factor=1.0,
        rope_high_freq_factor=4.0,
        rope_pretraining_sequence_length=4,
    )


@family
def mistral():
    return models().MistralBackbone(**DECODER, sliding_window=3)


@family
def mixtral():
    return models().MixtralBackbone(**DECODER, num_experts=3, top_k=2, sliding_window=3)


@family
def opt():
    return models().OPTBackbone(**TEXT, max_sequence_length=8)


@family
def phi3():
    return models().Phi3Backbone(**DECODER)


@family
def qwen():
    return models().QwenBackbone(
        **DECODER, use_sliding_window_attention=True, sliding_window_size=3
    )


@family
def qwen3():
    return models().Qwen3Backbone(**DECODER, head_dim=4)


@family
def qwen3_5():
    return models().Qwen3_5Backbone(**DECODER, **LINEAR_ATTENTION)


@family
def qwen3_5_moe():
    decoder = without(DECODER, "intermediate_dim")
    return models().Qwen3_5MoeBackbone(
        **decoder,
        **LINEAR_ATTENTION,
        moe_intermediate_dim=6,
        shared_expert_intermediate_size=5,
        num_experts=3,
        top_k=2,
    )


@family
def qwen_moe():
    return models().QwenMoeBackbone(
        **DECODER,
        moe_intermediate_dim=6,
        shared_expert_intermediate_dim=5,
        num_experts=3,
        top_k=2,
    )


@family
def roberta():
    return models().RobertaBackbone(**TEXT, max_sequence_length=8)


@family
def roformer_v2():
    return models().RoformerV2Backbone(**TEXT, head_size=4)


@family
def rwkv7():
    return models().RWKV7Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=2,
        hidden_size=8,
        head_size=4,
        intermediate_dim=12,
        gate_lora=3,
        mv_lora=3,
        aaa_lora=3,
        decay_lora=3,
    )


@family
def smol_lm3():
    decoder = without(DECODER, "num_query_heads")
    return models().SmolLM3Backbone(
        **decoder,
        num_attention_heads=4,
        attention_bias=True,
        attention_dropout=0.1,
        rope_layer_enabled_list=[True, False],
        layer_types=["full_attention"] * 2,
        mlp_bias=True,
        layer_norm_epsilon=1e-5,
        max_position_embeddings=8,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
    )


@family
def t5gemma():
    return models().T5GemmaBackbone(**T5GEMMA)


@family
def t5gemma2():
    return models().T5Gemma2Backbone(**T5GEMMA)


@family
def xlm_roberta():
    return models().XLMRobertaBackbone(**TEXT, max_sequence_length=8)


@family
def xlnet():
    return models().XLNetBackbone(**TEXT)
