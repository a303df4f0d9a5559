"""One's own products: a folder of photos with a table, and what people would say of them."""
