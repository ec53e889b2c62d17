<?php
// php mint.php PEM KID ISSUER APPLICATION_ID PLAYER_ID [EMAIL [USERNAME]]
[, $pem, $kid, $issuer, $applicationId, $playerId] = $argv;
$key = openssl_pkey_get_private(file_get_contents($pem)) ?: throw new Exception(openssl_error_string());

$now = time(); // seconds
$header = ['alg' => 'ES256', 'kid' => $kid, 'typ' => 'at+jwt'];
$claims = ['iss' => $issuer, 'aud' => $applicationId, 'sub' => (string) $playerId, 'iat' => $now, 'exp' => $now + 300];
$claims += array_filter(['email' => $argv[6] ?? null, 'username' => $argv[7] ?? null], 'is_string');

$base64url = fn(string $bytes) => rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
$input = $base64url(json_encode($header, JSON_THROW_ON_ERROR)) . '.' . $base64url(json_encode($claims, JSON_THROW_ON_ERROR));
openssl_sign($input, $der, $key, OPENSSL_ALGO_SHA256) ?: throw new Exception(openssl_error_string());

// OpenSSL writes DER: 30 len 02 len r 02 len s. ES256 is r and s in 32 bytes each.
$r = substr($der, 4, ord($der[3]));
$s = substr($der, 6 + strlen($r));
$raw = implode(array_map(fn($n) => str_pad(ltrim($n, "\0"), 32, "\0", STR_PAD_LEFT), [$r, $s]));
echo "$input." . $base64url($raw) . "\n";
