"""One store in several places: shards in this process or on the workers of a Dask cluster.

The flat index is cut at section boundaries. A shard is a :class:`gpuscan.store.single.Store` over one
part of it; :class:`gpuscan.shards.sharded_store.ShardedStore` partitions requests by PFN, gathers
one count per target and shard, and hands out the very plans that a single store would.
"""
