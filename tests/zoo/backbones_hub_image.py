"""The backbone families of keras_hub that see images, tiny and with random weights."""

from tests.zoo.backbones_hub import BLOCKS, models
from tests.zoo.families import IMAGE, registry

FAMILIES, family = registry("keras_hub")
VIDEO_PRISM = {
    "num_frames": 2,
    "patch_size": 8,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "num_heads": 2,
    "num_spatial_layers": 1,
    "num_temporal_layers": 1,
    "num_auxiliary_layers": 1,
    "image_shape": IMAGE,
}
MOBILENET_V5 = {
    "stackwise_block_types": [["er"], ["uir", "mqa"]],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_filters": [[8], [16, 16]],
    "stackwise_strides": [[2], [2, 1]],
    "stackwise_act_layers": [["gelu"], ["gelu", "gelu"]],
    "stackwise_exp_ratios": [[2.0], [2.0, 2.0]],
    "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
    "stackwise_dw_kernel_sizes": [[0], [3, 3]],
    "stackwise_dw_start_kernel_sizes": [[0], [3, 0]],
    "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
    "stackwise_exp_kernel_sizes": [[3], [0, 0]],
    "stackwise_pw_kernel_sizes": [[1], [0, 0]],
    "stackwise_num_heads": [[0], [0, 2]],
    "stackwise_key_dims": [[0], [0, 4]],
    "stackwise_value_dims": [[0], [0, 4]],
    "stackwise_kv_strides": [[0], [0, 2]],
    "stackwise_use_cpe": [[False], [False, False]],
    "num_features": 8,
    "msfa_output_resolution": 4,
}


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
def dino_v3():
    return models().DINOV3Backbone(
        **BLOCKS,
        patch_size=8,
        num_register_tokens=2,
        use_mask_token=False,
        use_gated_mlp=True,
        image_shape=IMAGE,
    )


@family
def vit_det():
    return models().ViTDetBackbone(
        patch_size=8,
        hidden_size=8,
        num_layers=2,
        intermediate_dim=12,
        num_heads=2,
        global_attention_layer_indices=[1],
        num_output_channels=6,
        window_size=2,
        image_shape=IMAGE,
    )


@family
def mobilenet_v5():
    return models().MobileNetV5Backbone(**MOBILENET_V5, image_shape=IMAGE)


@family
def video_prism():
    return models().VideoPrismBackbone(**VIDEO_PRISM)


@family
def retina_net():
    """Put a pyramid on a ResNet; its 256 channels cannot be changed."""
    return models().RetinaNetBackbone(
        image_encoder=resnet(), min_level=2, max_level=4, use_p5=False, image_shape=IMAGE
    )


@family
def deep_lab_v3():
    return models().DeepLabV3Backbone(
        image_encoder=resnet(),
        projection_filters=4,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P3",
        upsampling_size=2,
        dilation_rates=[1, 2],
        image_shape=IMAGE,
    )


@family
def basnet():
    encoder = models().ResNetBackbone(
        input_conv_filters=[4],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block_vd",
    )
    return models().BASNetBackbone(
        image_encoder=encoder, num_classes=2, projection_filters=4, image_shape=IMAGE
    )


@family
def seg_former():
    return models().SegFormerBackbone(image_encoder=mix_transformer(), projection_filters=6)


@family
def depth_anything():
    return models().DepthAnythingBackbone(
        image_encoder=dino_v2(),
        reassemble_factors=[4, 2, 1],
        neck_hidden_dims=[4, 6, 8],
        fusion_hidden_dim=6,
        head_hidden_dim=4,
        head_in_index=-1,
    )


@family
def d_fine():
    return models().DFineBackbone(
        backbone=hgnet_v2(),
        decoder_in_channels=[8, 8],
        encoder_hidden_dim=8,
        num_labels=3,
        num_denoising=0,
        learn_initial_query=False,
        num_queries=5,
        anchor_image_size=(32, 32),
        feat_strides=[4, 8],
        num_feature_levels=2,
        hidden_dim=8,
        encoder_in_channels=[8, 12],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=12,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=12,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=6,
        num_lqe_layers=2,
        image_shape=IMAGE,
    )
