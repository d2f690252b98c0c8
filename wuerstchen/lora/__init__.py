"""LoRAs: small updates of a network's linear layers (Hu et al. 2021).

names      names of layers in LoRA files, of all trainers -> ours
peft       PEFT's adapter config -> the scale of each layer
files      a file -> updates by layer, each sure to fit
merging    updates merged into a network, and taken out to the last bit
"""
