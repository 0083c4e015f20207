"""What every part of the library may use: checks, dtypes, types, files, JAX's jaxprs."""
