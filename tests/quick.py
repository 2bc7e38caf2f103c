"""How XLA compiles in tests: quickly, not well.

A test's programs run a few times on small inputs: most time would go into optimising them.
"""

XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
