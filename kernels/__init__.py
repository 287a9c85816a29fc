"""HOW FAST, Triton: one kernel, its launch wrapper and its tuning table per file.

Installed as ``latino_engine.kernels``. Nothing here imports the package: the arrows point from
``latino_engine`` to here, never back.
"""
