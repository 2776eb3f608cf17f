from fastapi import APIRouter
from pydantic import BaseModel

from serving.api.routing import FastRoute, requires, route_table
from serving.errors import NATIVE, ErrorFormat, render_error
from serving.middleware.route_table import UNKNOWN

OTHER_FORMAT = ErrorFormat(render_error, key_in_query=True)


class Body(BaseModel):
    text: str


def make_router() -> APIRouter:
    router = APIRouter(route_class=FastRoute)

    @router.post("/fast")
    @requires("predict", error_format=OTHER_FORMAT)
    async def fast(_: object, body: Body) -> None: ...

    @router.get("/items/{item}")
    @requires("admin")
    async def item(item: str) -> None: ...

    @router.get("/open")
    async def open_to_all() -> None: ...

    return router


def test_the_table_has_what_the_routes_declare() -> None:
    table = route_table([make_router()])
    fast, item, public = (table.find(path) for path in ("/fast", "/items/a b", "/open"))
    assert (fast.scope, fast.error_format) == ("predict", OTHER_FORMAT)
    assert (item.path, item.scope, item.error_format) == ("/items/{item}", "admin", NATIVE)
    assert (public.scope, public.error_format) == (None, NATIVE)


def test_only_a_route_with_a_body_has_a_fast_path() -> None:
    table = route_table([make_router()])
    assert table.find("/fast").fast_path is not None
    assert table.find("/open").fast_path is None


def test_a_path_without_a_route_is_unknown() -> None:
    table = route_table([make_router()])
    assert table.find("/items") is UNKNOWN
    assert table.find("/fast/more") is UNKNOWN
