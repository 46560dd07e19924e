"""The room of metasrl for constrained MDPs and families of them."""
