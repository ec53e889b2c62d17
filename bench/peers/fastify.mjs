// Fastify + fast-jwt; its cache is off, as no token comes twice in life either.
import { createHash, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createVerifier } from 'fast-jwt'
import Fastify from 'fastify'

const { ALG, APPLICATION_ID, ISSUER, KID, MAX_LIFETIME, PORT, PUBLIC, SECRET } = process.env
const digest = (text) => createHash('sha256').update(text).digest()
const secrets = new Map([[APPLICATION_ID, digest(SECRET)]])
const nobody = digest('')
const verifiers = new Map([[KID, createVerifier({
  key: readFileSync(PUBLIC, 'utf8'),
  algorithms: [ALG],
  allowedIss: ISSUER,
  allowedAud: APPLICATION_ID,
  requiredClaims: ['iss', 'aud', 'sub', 'iat', 'exp'],
  checkTyp: 'at+jwt',
  clockTolerance: 30_000,
  cache: false
})]])

const text = { type: 'string', minLength: 1 }
const schema = {
  body: {
    type: 'object',
    required: ['code', 'secretKey', 'applicationId'],
    properties: { code: text, secretKey: text, applicationId: text }
  },
  response: {
    200: { type: 'object', properties: { _id: text, email: text, username: text } }
  }
}

const app = Fastify()
app.post('/profile', { schema }, (request, reply) => {
  const { code, secretKey, applicationId } = request.body
  reply.header('cache-control', 'no-store')
  if (!timingSafeEqual(digest(secretKey), secrets.get(applicationId) ?? nobody)) {
    return reply.code(401).send({ error: 'invalid_client' })
  }
  try {
    const { kid } = JSON.parse(Buffer.from(code.slice(0, code.indexOf('.')), 'base64url'))
    const claims = verifiers.get(kid)(code)
    if (claims.exp - claims.iat > MAX_LIFETIME) throw new Error('lifetime')
    return reply.send({ _id: claims.sub, email: claims.email, username: claims.username })
  } catch {
    return reply.code(401).send({ error: 'invalid_token' })
  }
})
await app.listen({ host: '127.0.0.1', port: Number(PORT) })
