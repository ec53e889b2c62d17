from mangum import Mangum

from verifier.asgi import app

handler = Mangum(app, lifespan="off")
