"""The target image drawn from a query: StackGAN on CSS, and how right its pictures are.

    augmentation, layers, stage_one, stage_two   the networks, as published
    losses, training, checkpoints                how they learn
    conditions, data                             what they are told, and what they should draw
    readers, measuring, fid                      what stands in the pictures they draw
    painter, drawing, grid                       pictures from a trained generator

Zhang et al., "StackGAN", ICCV 2017, in the sizes of Modify-image-by-text, which draws CSS scenes
from TIRG's features.
"""
