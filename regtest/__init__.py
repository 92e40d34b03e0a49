"""Drive everything from outside: a real node, a real PostgreSQL, a real chain.

A library first, a command second. It starts other programs as processes and speaks to them as any user would
(RPC, SQL, HTTP); of this project it imports only `watcher.runtime.errors`.

    bitcoind = find_bitcoind()                          # regtest.bitcoind: find an executable, or fetch one
    node = Node(bitcoind, directory / "bitcoind")       # regtest.node: one regtest node as a child process
    await node.start()
    postgres = Postgres(directory)                      # regtest.postgres: one PostgreSQL as a child process
    await postgres.start()
    async with Chain(node.client) as chain:             # regtest.chain: what happens on the chain
        await chain.setup()
        txid = await chain.pay(address, 150_000)
        await chain.mine()
        await chain.reorg(1)

Amounts are integers of satoshi, transactions and blocks are named by their display hex, as RPC names them.
"""
