// Bun + jose.
import { createHash, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { decodeProtectedHeader, importSPKI, jwtVerify } from 'jose'

const { ALG, APPLICATION_ID, ISSUER, KID, MAX_LIFETIME, PORT, PUBLIC, SECRET } = process.env
const digest = (text) => createHash('sha256').update(text).digest()
const secrets = new Map([[APPLICATION_ID, digest(SECRET)]])
const unknown = digest('')
const keys = new Map([[KID, await importSPKI(readFileSync(PUBLIC, 'utf8'), ALG)]])
const headers = { 'cache-control': 'no-store' }
const reject = (status, error) => Response.json({ error }, { status, headers })

async function profile (request) {
  let body
  try {
    body = await request.json()
  } catch {
    return reject(400, 'invalid_request')
  }
  const { code, secretKey, applicationId } = body
  if (![code, secretKey, applicationId].every((text) => typeof text === 'string' && text)) {
    return reject(400, 'invalid_request')
  }
  if (!timingSafeEqual(digest(secretKey), secrets.get(applicationId) ?? unknown)) {
    return reject(401, 'invalid_client')
  }
  try {
    const { payload } = await jwtVerify(code, keys.get(decodeProtectedHeader(code).kid), {
      algorithms: [ALG],
      issuer: ISSUER,
      audience: applicationId,
      typ: 'at+jwt',
      clockTolerance: 30,
      requiredClaims: ['sub', 'iat', 'exp']
    })
    if (payload.exp - payload.iat > MAX_LIFETIME) throw new Error('lifetime')
    return Response.json({ _id: payload.sub, email: payload.email, username: payload.username }, { headers })
  } catch {
    return reject(401, 'invalid_token')
  }
}

Bun.serve({ hostname: '127.0.0.1', port: Number(PORT), routes: { '/profile': { POST: profile } } })
