"""The backbone families of keras_hub with inputs of several kinds, tiny and with random weights."""

from tests.zoo.backbones_hub import (
    BLOCKS,
    DECODER,
    TEXT,
    VOCABULARY,
    layers,
    models,
)
from tests.zoo.backbones_hub_image import VIDEO_PRISM, mobilenet_v5, vit, vit_det
from tests.zoo.backbones_hub_text import GEMMA3N, T5GEMMA
from tests.zoo.families import IMAGE, registry

FAMILIES, family = registry("keras_hub")
VISION = {**BLOCKS, "patch_size": 16, "image_shape": IMAGE}
CLIP_TEXT = {**TEXT, "embedding_dim": 8, "max_sequence_length": 8}
GEMMA_VISION = {**BLOCKS, "image_size": 32, "patch_size": 8, "pool_size": 2, "output_dim": 8}
SAM3 = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
# Sizes of inputs that a model leaves open and that are no text, in the order of their axes.
OPEN_SIZES = {
    "keras_hub moonshine": {"encoder_input_values": (1300,), "encoder_padding_mask": (1300,)},
    "keras_hub gemma3_images": {"images": (1,), "vision_indices": (4,)},
    "keras_hub gemma4_images_and_audio": {
        "pixel_values": (1, 16, 192),
        "pixel_position_ids": (1, 16),
        "vision_indices": (4,),
        "audio_mel": (1, 8),
        "audio_mel_mask": (1, 8),
        "audio_indices": (2,),
    },
    "keras_hub gemma3n_images_and_audio": {
        "images": (1,),
        "input_features": (1, 16),
        "input_features_mask": (1, 16),
    },
    "keras_hub t5gemma2_images": {"images": (1,), "vision_indices": (4,)},
    "keras_hub sam": {"points": (2,), "labels": (2,), "boxes": (1,), "masks": (1, 16, 16)},
    "keras_hub sam3_promptable_concept": {"boxes": (2,), "box_labels": (2,)},
}


@family
def whisper():
    return models().WhisperBackbone(
        **TEXT, num_mels=4, max_encoder_sequence_length=8, max_decoder_sequence_length=6
    )


@family
def moonshine():
    return models().MoonshineBackbone(
        vocabulary_size=VOCABULARY,
        filter_dim=8,
        encoder_num_layers=1,
        decoder_num_layers=1,
        hidden_dim=8,
        intermediate_dim=12,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )


@family
def parseq():
    return models().PARSeqBackbone(
        image_encoder=vit(),
        vocabulary_size=VOCABULARY,
        max_label_length=6,
        decoder_hidden_dim=8,
        num_decoder_layers=1,
        num_decoder_heads=2,
        decoder_mlp_dim=12,
    )


@family
def clip():
    return models().CLIPBackbone(
        vision_encoder=models().CLIPVisionEncoder(**VISION),
        text_encoder=models().CLIPTextEncoder(**CLIP_TEXT),
        projection_dim=6,
    )


@family
def meta_clip2():
    return models().MetaCLIP2Backbone(
        vision_encoder=models().MetaCLIP2VisionEncoder(**VISION),
        text_encoder=models().MetaCLIP2TextEncoder(**CLIP_TEXT),
        projection_dim=6,
    )


@family
def siglip():
    return models().SigLIPBackbone(
        vision_encoder=models().SigLIPVisionEncoder(**VISION),
        text_encoder=models().SigLIPTextEncoder(**{**CLIP_TEXT, "max_sequence_length": 6}),
    )


@family
def blip2():
    return models().BLIP2Backbone(
        vision_encoder=models().BLIP2VisionEncoder(
            **BLOCKS,
            image_size=32,
            patch_size=16,
            use_patch_bias=True,
            use_class_token=True,
            use_mha_bias=True,
            use_mlp_bias=True,
            dropout_rate=0.1,
            layer_norm_epsilon=1e-6,
            initializer_range=0.02,
        ),
        qformer=models().BLIP2QFormer(
            **BLOCKS,
            num_query_tokens=3,
            vision_dim=8,
            cross_attention_frequency=2,
            dropout=0.1,
            layer_norm_epsilon=1e-6,
        ),
        language_model=models().BLIP2CustomOPT(
            **TEXT,
            num_query_tokens=3,
            dropout=0.1,
            max_sequence_length=9,
            qformer_hidden_dim=8,
        ),
    )


@family
def pali_gemma():
    return models().PaliGemmaBackbone(
        **DECODER,
        head_dim=4,
        image_size=32,
        vit_patch_size=16,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_intermediate_dim=12,
        vit_num_layers=1,
    )


@family
def gemma3_images():
    vision = models().Gemma3VisionEncoder(**GEMMA_VISION)
    return models().Gemma3Backbone(**DECODER, head_dim=4, image_size=32, vision_encoder=vision)


@family
def gemma3n_images_and_audio():
    """Build images and sounds into a text, where two of its tokens stand for them."""
    return models().Gemma3nBackbone(
        **GEMMA3N,
        vision_encoder_config=mobilenet_v5().get_config(),
        vision_hidden_size=8,
        vision_vocab_size=2,
        vision_vocab_offset=VOCABULARY,
        image_token_id=VOCABULARY - 2,
        audio_encoder_config={
            "hidden_size": 8,
            "input_feat_size": 8,
            "sscp_conv_channel_size": [4, 4],
            "sscp_conv_kernel_size": [(3, 3), (3, 3)],
            "sscp_conv_stride_size": [(2, 2), (2, 2)],
            "sscp_conv_group_norm_eps": 1e-5,
            "num_hidden_layers": 1,
            "rms_norm_eps": 1e-6,
            "gradient_clipping": 1e10,
            "residual_weight": 0.5,
            "num_attention_heads": 2,
            "attention_chunk_size": 2,
            "num_attention_context_right": 1,
            "num_attention_context_left": 2,
            "attention_logit_cap": 50.0,
            "conv_kernel_size": 3,
            "reduction_factor": 1,
        },
        audio_hidden_size=8,
        audio_vocab_size=2,
        audio_vocab_offset=VOCABULARY + 2,
        audio_soft_tokens_per_image=6,
        audio_token_id=VOCABULARY - 1,
    )


@family
def gemma4_images_and_audio():
    return models().Gemma4Backbone(
        **DECODER,
        head_dim=4,
        image_size=32,
        vision_encoder=models().Gemma4VisionEncoder(
            **GEMMA_VISION, head_dim=4, position_embedding_size=16
        ),
        audio_encoder=models().Gemma4AudioEncoder(
            input_feat_size=8,
            hidden_size=8,
            num_heads=2,
            num_layers=1,
            chunk_size=2,
            context_left=2,
            context_right=0,
            conv_kernel_size=3,
            sscp_conv_channels=(4, 4),
            output_proj_dims=6,
            output_dim=8,
        ),
        num_audio_tokens_per_clip=2,
        use_vision_bidirectional_attention=True,
        hidden_size_per_layer_input=3,
    )


@family
def t5gemma2_images():
    vision = models().Gemma3VisionEncoder(**GEMMA_VISION)
    return models().T5Gemma2Backbone(**T5GEMMA, vision_encoder=vision, eoi_token_index=3)


@family
def video_prism_text():
    return models().VideoPrismBackbone(**VIDEO_PRISM, vocabulary_size=VOCABULARY, num_text_layers=1)


@family
def flux():
    return models().FluxBackbone(
        input_channels=4,
        hidden_size=16,
        mlp_ratio=2,
        num_heads=2,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[2, 2, 4],
        theta=10000,
        use_bias=True,
        guidance_embed=True,
        image_shape=(4, 4),
        text_shape=(3, 6),
        image_ids_shape=(4, 3),
        text_ids_shape=(3, 3),
        y_shape=(5,),
    )


@family
def stable_diffusion3():
    from keras_hub.src.models.stable_diffusion_3.t5_encoder import T5Encoder
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    def text_encoder(name):
        return models().CLIPTextEncoder(**CLIP_TEXT, intermediate_output_index=0, name=name)

    backbone = models().StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=16,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=4,
        mmdit_qk_norm="rms_norm",
        mmdit_dual_attention_indices=(0,),
        vae=VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4),  # groups of 32 channels
        clip_l=text_encoder("clip_l"),
        clip_g=text_encoder("clip_g"),
        t5=T5Encoder(**{**TEXT, "hidden_dim": 16}),
        image_shape=IMAGE,
    )
    backbone.configure_scheduler(4)  # else a traced `num_steps` would be the size of an array
    return backbone


@family
def sam():
    return models().SAMBackbone(
        image_encoder=vit_det(),
        prompt_encoder=layers().SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(4, 4),
            input_image_size=(32, 32),
            mask_in_channels=4,
        ),
        mask_decoder=layers().SAMMaskDecoder(
            num_layers=1,
            hidden_size=8,
            intermediate_dim=12,
            num_heads=2,
            embedding_dim=8,
            iou_head_hidden_dim=6,
        ),
    )


@family
def sam3_promptable_concept():
    return models().SAM3PromptableConceptBackbone(
        vision_encoder=layers().SAM3VisionEncoder(
            **{**SAM3, "num_layers": 2},
            image_shape=IMAGE,
            patch_size=8,
            fpn_hidden_dim=8,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5],
            pretrain_image_shape=(16, 16, 3),
            window_size=2,
            global_attn_indexes=[1],
        ),
        text_encoder=layers().SAM3TextEncoder(
            **SAM3, vocabulary_size=VOCABULARY, embedding_dim=8, max_sequence_length=8
        ),
        geometry_encoder=layers().SAM3GeometryEncoder(**SAM3, roi_size=3),
        detr_encoder=layers().SAM3DetrEncoder(**SAM3),
        detr_decoder=layers().SAM3DetrDecoder(
            **SAM3, image_shape=IMAGE, patch_size=8, num_queries=5
        ),
        mask_decoder=layers().SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=8, num_heads=2),
    )
