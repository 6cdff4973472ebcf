"""Sources of secrets beyond this machine; each imports its SDK only when it is made."""
