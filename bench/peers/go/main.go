// Go's net/http + golang-jwt.
package main

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

type signIn struct {
	Code          string `json:"code"`
	SecretKey     string `json:"secretKey"`
	ApplicationID string `json:"applicationId"`
}

type profile struct {
	ID       string `json:"_id"`
	Email    string `json:"email,omitempty"`
	Username string `json:"username,omitempty"`
}

type claims struct {
	jwt.RegisteredClaims
	Email    string `json:"email"`
	Username string `json:"username"`
}

var (
	alg, issuer = os.Getenv("ALG"), os.Getenv("ISSUER")
	secrets     = map[string][32]byte{os.Getenv("APPLICATION_ID"): sha256.Sum256([]byte(os.Getenv("SECRET")))}
	keys        = map[string]crypto.PublicKey{}
	lifetime, _ = strconv.ParseInt(os.Getenv("MAX_LIFETIME"), 10, 64)
	parsers     = map[string]*jwt.Parser{os.Getenv("APPLICATION_ID"): newParser(os.Getenv("APPLICATION_ID"))}
)

// By application, because each is its own audience.
func newParser(applicationID string) *jwt.Parser {
	return jwt.NewParser(
		jwt.WithValidMethods([]string{alg}), jwt.WithLeeway(30*time.Second), jwt.WithIssuedAt(),
		jwt.WithExpirationRequired(), jwt.WithIssuer(issuer), jwt.WithAudience(applicationID),
	)
}

func publicKey(pem []byte) (crypto.PublicKey, error) {
	switch alg {
	case "ES256":
		return jwt.ParseECPublicKeyFromPEM(pem)
	case "EdDSA":
		return jwt.ParseEdPublicKeyFromPEM(pem)
	default:
		return jwt.ParseRSAPublicKeyFromPEM(pem)
	}
}

func find(token *jwt.Token) (any, error) {
	kid, _ := token.Header["kid"].(string)
	key, found := keys[kid]
	if !found || token.Header["typ"] != "at+jwt" {
		return nil, errors.New("kid or typ")
	}
	return key, nil
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func serve(w http.ResponseWriter, r *http.Request) {
	var body signIn
	if r.Method != http.MethodPost || json.NewDecoder(http.MaxBytesReader(w, r.Body, 16384)).Decode(&body) != nil {
		respond(w, 400, map[string]string{"error": "invalid_request"})
		return
	}
	presented, known := sha256.Sum256([]byte(body.SecretKey)), secrets[body.ApplicationID]
	if subtle.ConstantTimeCompare(presented[:], known[:]) != 1 {
		respond(w, 401, map[string]string{"error": "invalid_client"})
		return
	}
	var c claims
	_, err := parsers[body.ApplicationID].ParseWithClaims(body.Code, &c, find)
	if err != nil || c.IssuedAt == nil || c.Subject == "" || c.ExpiresAt.Unix()-c.IssuedAt.Unix() > lifetime {
		respond(w, 401, map[string]string{"error": "invalid_token"})
		return
	}
	respond(w, 200, profile{c.Subject, c.Email, c.Username})
}

func main() {
	pem, err := os.ReadFile(os.Getenv("PUBLIC"))
	if err != nil {
		log.Fatal(err)
	}
	if keys[os.Getenv("KID")], err = publicKey(pem); err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/profile", serve)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
