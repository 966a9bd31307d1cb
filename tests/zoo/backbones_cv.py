"""The backbone families of keras_cv, tiny and with random weights.

Only base classes with explicit arguments: names of sizes and presets would ask a hub.
"""

from tests.zoo.families import IMAGE, load, registry

FAMILIES, family = registry("keras_cv")
PLAIN = {"include_rescaling": False, "input_shape": IMAGE}
STAGES = {"stackwise_filters": [4, 8], "stackwise_blocks": [2, 2], "stackwise_strides": [1, 2]}
MBCONV = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "stackwise_kernel_sizes": [3, 5],
    "stackwise_num_repeats": [1, 2],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 2],
    "stackwise_strides": [1, 2],
}


def models():
    return load("keras_cv", "keras-cv==0.9.0 tensorflow").models


@family
def resnet():
    stem = {"stackwise_filters": [64, 8]}  # the first basic block adds the stem of 64 channels
    return models().ResNetBackbone(**{**STAGES, **stem}, **PLAIN, block_type="basic_block")


@family
def resnet_bottleneck():
    return models().ResNetBackbone(**STAGES, **PLAIN, block_type="block")


@family
def resnet_v2():
    return models().ResNetV2Backbone(**STAGES, **PLAIN, block_type="block")


@family
def efficientnet_v1():
    return models().EfficientNetV1Backbone(
        **MBCONV, **PLAIN, stackwise_squeeze_and_excite_ratios=[0.25, 0.25]
    )


@family
def efficientnet_v2():
    return models().EfficientNetV2Backbone(
        **MBCONV,
        **PLAIN,
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
        stackwise_conv_types=["fused", "unfused"],
    )


@family
def efficientnet_lite():
    stem = {"stackwise_input_filters": [32, 8]}  # the stem of this family has 32 channels
    return models().EfficientNetLiteBackbone(**{**MBCONV, **stem}, **PLAIN)


@family
def mobilenet_v3():
    return models().MobileNetV3Backbone(
        stackwise_expansion=[1, 2],
        stackwise_filters=[8, 16],
        stackwise_kernel_size=[3, 5],
        stackwise_stride=[2, 1],
        stackwise_se_ratio=[0.25, None],
        stackwise_activation=["relu", "hard_swish"],
        **PLAIN,
    )


@family
def csp_darknet():
    return models().CSPDarkNetBackbone(stackwise_channels=[8, 12], stackwise_depth=[1, 1], **PLAIN)


@family
def csp_darknet_depthwise():
    return models().CSPDarkNetBackbone(
        stackwise_channels=[8, 12], stackwise_depth=[1, 1], use_depthwise=True, **PLAIN
    )


@family
def densenet():
    return models().DenseNetBackbone(stackwise_num_repeats=[2, 2], growth_rate=4, **PLAIN)


@family
def yolo_v8():
    return models().YOLOV8Backbone(stackwise_channels=[8, 12], stackwise_depth=[1, 1], **PLAIN)


@family
def vgg16():
    """Build the only family without a width: it is VGG16 in full, on 32 pixels."""
    return models().VGG16Backbone(include_rescaling=False, include_top=False, input_shape=IMAGE)


@family
def mix_transformer():
    return models().MiTBackbone(depths=[1, 1, 1, 1], embedding_dims=[8, 10, 20, 16], **PLAIN)


@family
def vit_det():
    return models().ViTDetBackbone(
        patch_size=8,
        embed_dim=8,
        depth=2,
        mlp_dim=12,
        num_heads=2,
        out_chans=6,
        window_size=2,
        global_attention_indices=[1],
        **PLAIN,
    )


@family
def video_swin():
    return models().VideoSwinBackbone(
        input_shape=(4, 32, 32, 3),
        embed_dim=8,
        patch_size=[2, 4, 4],
        window_size=[2, 4, 4],
        depths=[2, 1],
        num_heads=[2, 2],
    )


@family
def center_pillar():
    """Build the only family of 128 channels: its first block has them whatever the filters."""
    return models().CenterPillarBackbone(
        stackwise_down_blocks=[1, 1],
        stackwise_down_filters=[4, 6],
        stackwise_up_filters=[6, 4],
        input_shape=(8, 8, 3),
    )
