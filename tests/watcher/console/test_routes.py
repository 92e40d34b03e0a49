"""The console's addresses."""


async def test_one_begins_with_the_projects(alice, visitor):
    assert (await alice.get("/")).path == "/projects"
    assert (await visitor.get("/")).path.startswith("/sign-in")


async def test_docs_and_the_api_stay_where_they_are(visitor):
    assert (await visitor.get("/docs")).status == 200
    assert (await visitor.get("/api/v1/openapi.json")).status == 200
