"""How each stage is trained, and the drawn pictures that the bundled small model learnt from."""
