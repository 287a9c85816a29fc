"""End to end, at equal quality: time, network evaluations, PSNR and CRPS of one sample in a row."""
