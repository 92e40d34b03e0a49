"""The edges to bitcoind: ZMQ rings (`zmq`), RPC is read (`rpc`), and bytes are understood (`decode`)."""
