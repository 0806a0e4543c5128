"""String skills and instruction data: read, cleaned, tokenized, masked and batched."""
