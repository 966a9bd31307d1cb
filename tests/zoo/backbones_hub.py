"""The backbone families of keras_hub, tiny and with random weights.

Only base classes with explicit arguments: presets would ask a hub.
"""

FAMILIES = {}
IMAGE = (32, 32, 3)
VOCABULARY = 11
TEXT = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}
DECODER = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}


def family(build):
    FAMILIES[f"keras_hub {build.__name__}"] = build
    return build


def models():
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "The zoo of backbones needs keras_hub: pip install keras-hub tensorflow"
        ) from error
    return keras_hub.models


@family
def resnet():
    return models().ResNetBackbone(
        input_conv_filters=[4],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],  # 64 is compulsory
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block",
        image_shape=IMAGE,
    )


@family
def resnet_vd():
    return models().ResNetBackbone(
        input_conv_filters=[4, 4, 8],
        input_conv_kernel_sizes=[3, 3, 3],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block_vd",
        image_shape=IMAGE,
    )


@family
def efficientnet():
    return models().EfficientNetBackbone(
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_kernel_sizes=[3, 5],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 16],
        stackwise_expansion_ratios=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["fused", "unfused"],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        num_features=16,
        input_shape=IMAGE,
    )


@family
def mobilenet():
    return models().MobileNetBackbone(
        stackwise_expansion=[[8], [12]],
        stackwise_num_blocks=[1, 1],
        stackwise_num_filters=[[8], [12]],
        stackwise_kernel_size=[[3], [5]],
        stackwise_num_strides=[[2], [1]],
        stackwise_se_ratio=[[0.25], [None]],
        stackwise_activation=[["relu"], ["hard_swish"]],
        stackwise_padding=[[1], [2]],
        output_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=12,
        squeeze_and_excite=0.5,
        image_shape=IMAGE,
    )


@family
def vit():
    return models().ViTBackbone(
        image_shape=IMAGE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12
    )


@family
def deit():
    return models().DeiTBackbone(
        image_shape=IMAGE,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
    )


@family
def densenet():
    return models().DenseNetBackbone(stackwise_num_repeats=[2, 2], growth_rate=4, image_shape=IMAGE)


@family
def vgg():
    return models().VGGBackbone(
        stackwise_num_repeats=[1, 2], stackwise_num_filters=[4, 8], image_shape=IMAGE
    )


@family
def xception():
    return models().XceptionBackbone(
        stackwise_conv_filters=[[4, 4], [6, 6]], stackwise_pooling=[True, False], image_shape=IMAGE
    )


@family
def csp_net():
    return models().CSPNetBackbone(
        stem_filters=4,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 1],
        stackwise_strides=[1, 2],
        stackwise_num_filters=[8, 12],
        block_type="dark_block",
        stage_type="csp",
        block_ratio=[0.5],  # a stage is split in halves, and its blocks see one of them
        image_shape=IMAGE,
    )


@family
def mix_transformer():
    return models().MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=IMAGE,
        hidden_dims=[8, 12],
    )


@family
def swin_transformer():
    return models().SwinTransformerBackbone(
        image_shape=IMAGE, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4
    )


@family
def dino_v2():
    return models().DINOV2Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=12,
        num_register_tokens=2,
        image_shape=IMAGE,
        position_embedding_shape=IMAGE,
        use_mask_token=False,
    )


@family
def hgnet_v2():
    return models().HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=4,
        hidden_sizes=[8, 12],
        stem_channels=[3, 4, 8],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=[[8, 4, 8, 1, 2, 3], [8, 4, 12, 1, 2, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        image_shape=IMAGE,
    )


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
    text = {key: value for key, value in TEXT.items() if key != "num_heads"}
    return models().FNetBackbone(**text, max_sequence_length=8)


@family
def t5():
    return models().T5Backbone(**TEXT)


@family
def whisper():
    return models().WhisperBackbone(
        **TEXT, num_mels=4, max_encoder_sequence_length=8, max_decoder_sequence_length=6
    )
